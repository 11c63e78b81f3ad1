use super::*;
use crate::diagnostic::Findings;
use crate::manifest::Source;

const DEFAULT: &str = include_str!("../../manifests/default.toml");

fn report(text: &str) -> Report {
    let source = Source { name: "m.toml".to_owned(), text: text.to_owned() };
    let manifest = Manifest::parse(&source).unwrap();
    let mut found = Findings::new(&source);
    let layout = Layout::resolve(&manifest, &mut found);
    found.into_result(()).unwrap();
    Report::new(&manifest, &layout, None)
}

#[test]
fn every_capability_is_listed() {
    let report = report(DEFAULT);
    let proxy = &report.servers[0];
    let at =
        |slot| proxy.capabilities.iter().find(|cap| cap.slot == slot).map(|cap| (cap.object, cap.rights, cap.badge));
    assert_eq!(at(slots::ENDPOINT), Some(("Endpoint", "rw", 0)));
    assert_eq!(at(slots::CONSOLE), Some(("Console", "w", 0)));
    let signal = proxy.holds.iter().position(|h| h.kind == "signal").unwrap() as u32;
    assert_eq!(at(slots::FIRST_GRANT + signal), Some(("Notification", "w", 1)));
    assert_eq!(proxy.capabilities.len(), 7 + proxy.holds.len());
    let linux = &report.servers[1];
    let pool = linux.capabilities.iter().find(|cap| cap.rights == "rwx").unwrap();
    assert_eq!((pool.object, linux.holds[1].party.as_str()), ("Frame", "pool"));
}

#[test]
fn text_and_drawing_name_everybody() {
    let report = report(DEFAULT);
    for rendering in [report.text(), report.svg(), report.json()] {
        for name in ["default", "srtos", "linux", "vfs-proxy", "pool", "mirror", "shadow"] {
            assert!(rendering.contains(name), "{name}");
        }
    }
    let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(value["servers"][1]["holds"][0]["party"], "vfs-proxy");
    assert!(
        report.text().contains("call         vfs              vfs-proxy: call, seen as badge 1"),
        "{}",
        report.text()
    );
    assert_eq!(report.svg().matches("<rect class=\"server\"").count(), 2);
}

#[test]
fn response_times_are_in_the_table() {
    let text = DEFAULT
        .replace("priority = 240\n", "priority = 240\nbudget_us = 200\nperiod_us = 1000\n")
        .replace("priority = 230\n", "priority = 230\nbudget_us = 500\nperiod_us = 2000\ndeadline_us = 2000\n");
    let report = report(&text);
    // 500 own, and 200 for each release of the other: at 0 and, since 700 < 1000, at no other time.
    assert_eq!((report.servers[0].response_us, report.servers[1].response_us), (Some(200), Some(700)));
    assert!(report.text().contains("700 µs"));
}

#[test]
fn a_difference_is_what_was_gained_and_lost() {
    let old = report(DEFAULT);
    assert_eq!(old.diff(&old), Vec::<String>::new());
    let text = DEFAULT
        .replace("    { region = \"held\", access = \"r\" },\n", "")
        .replace(
            "{ region = \"linux-header\", access = \"r\" },\n    { region = \"responses\"",
            "{ region = \"responses\"",
        )
        .replace("priority = 230", "priority = 220")
        .replace("vectors = 3\n", "vectors = 4\n")
        + "forwarded = [\"files\"]\n\n[[server]]\nname = \"extra\"\npriority = 10\nstack = \"64 KiB\"\ncalls = [{ to = \"vfs-proxy\", badge = 2 }]\n";
    let new = report(&text);
    assert_eq!(
        old.diff(&new),
        [
            "- server \"vfs-proxy\": memory \"linux-header\" (as \"linux-header\"): read",
            "~ server \"linux\": priority 230 -> 220",
            "~ server \"linux\": ceiling 230 -> 220",
            "- server \"linux\": memory \"held\" (as \"held\"): read",
            "+ server \"extra\" (priority 10)",
            "+ server \"extra\": call \"vfs-proxy\" (as \"vfs-proxy\"): call, seen as badge 2",
            "- applications: calls of class \"network\" go to Linux",
            "- applications: calls of class \"events\" go to Linux",
            "- applications: calls of class \"ipc\" go to Linux",
            "- applications: calls of class \"system\" go to Linux",
        ]
    );
    assert_eq!(new.diff(&old)[0], "- server \"extra\"");
}
