use super::*;

#[test]
fn the_effective_capabilities_are_read_from_the_status_of_the_process() {
    let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";
    assert!(holds(status, NET_ADMIN));
    assert!(!holds(status, SYS_ADMIN));
    for broken in ["", "CapEff:\n", "CapEff:\tnothing\n"] {
        assert!(!holds(broken, NET_ADMIN), "{broken}");
    }
}

#[test]
fn a_refusal_despite_the_capability_names_another_cause() {
    let error = |cause| Unprivileged { deed: "do it", error: io::ErrorKind::PermissionDenied.into(), cause };
    let said = error(Cause::Forbidden(SYS_ADMIN)).to_string();
    assert!(said.contains("SYS_ADMIN is there") && said.contains("seccomp"), "{said}");
    let said = error(Cause::Missing(NET_ADMIN)).to_string();
    assert!(
        said.contains("NET_ADMIN is missing") && said.contains("securityContext.capabilities.add"),
        "{said}"
    );
}
