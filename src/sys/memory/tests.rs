use super::*;

#[test]
fn memory_is_given_back_once_after_a_burst_and_never_under_a_connection() {
    let mut tidy = Tidy::default();
    let looks = [(0, 0), (9, 3), (9, 3), (9, 0), (9, 0), (12, 0), (12, 0), (12, 0)];
    let given = looks.map(|(placed, open)| tidy.look(placed, open));
    assert_eq!(given, [false, false, false, true, false, false, true, false]);
}

#[test]
fn only_what_a_file_holds_as_well_is_taken_out() {
    let mapping = |head: &str, anonymous: u32| format!("{head}\nRss:  8 kB\nAnonymous:  {anonymous} kB\n");
    let smaps = [
        mapping("1000-2000 r-xp 00001000 fe:01 77    /usr/bin/warren", 0),
        // These pages were relocated at the start, or changed by a debugger.
        mapping("3000-4000 r--p 00003000 fe:01 77    /usr/bin/warren", 8),
        mapping("5000-6000 rw-p 00005000 fe:01 77    /usr/bin/warren", 0),
        mapping("7000-8000 r--s 00000000 fe:01 78    /usr/share/table", 0),
        mapping("9000-a000 r--p 00000000 00:00 0 ", 0),
        mapping("b000-c000 r-xp 00000000 00:00 0     [vdso]", 0),
        mapping("d000-f000 r--p 00000000 fe:01 79    /usr/lib/libc.so.6", 0),
    ];
    assert_eq!(unchanged(&smaps.concat()), [0x1000..0x2000, 0xd000..0xf000]);
}

/// The size of file pages in this process's page table, in kB.
fn of_files() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn code_that_is_given_back_comes_back_where_it_is_used() {
    let before = of_files();
    give_back_code();
    assert!(of_files() < before, "{before} kB before, {} after", of_files());
    // The rest of the test and its runner uses code whose pages were given back.
}
