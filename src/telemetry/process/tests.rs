use super::*;

#[test]
fn the_soft_limit_is_the_first_number() {
    let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             1                    2                    processes \n\
                    Max open files            1024                 524288               files     \n";
    assert_eq!(soft_limit(text), Some(1024));
    assert_eq!(soft_limit("Max open files            unlimited            unlimited            files"), None);
    assert_eq!(soft_limit(""), None);
}

#[test]
fn this_process_has_descriptors_below_its_limit() {
    let (open, limit) = file_descriptors();
    assert!(open.is_some_and(|open| open >= 3 && limit.is_none_or(|limit| open <= limit)));
}
