//! docs/deploy: what operations.md has people install.

use std::path::Path;
use std::process::Command;

use chatapi_tests::binary;

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/deploy");
    let unit = std::fs::read_to_string(deploy.join("chatapi.service")).expect("the unit");
    assert_eq!(unit.matches("/usr/local/bin/chatapi ").count(), 2, "checked before it is started");
    // The program is not installed on the machine of a test.
    let unit = unit.replace("/usr/local/bin/chatapi ", &format!("{} ", binary().display()));
    let folder = tempfile::tempdir().expect("a folder");
    let verify = |text: &str| {
        let file = folder.path().join("chatapi.service");
        std::fs::write(&file, text).expect("written");
        let output = Command::new("systemd-analyze").arg("verify").arg(&file).output().expect(".ci/setup slow");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    assert_eq!(verify(&unit), (true, String::new()));
    let (_, said) = verify(&unit.replace("NoNewPrivileges", "NoNewPrivilege"));
    assert!(said.contains("NoNewPrivilege"), "it would say so: {said}");
}
