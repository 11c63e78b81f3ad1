//! A skeleton: its manifest is in order, and the tutorial shows what the check says about it.

use std::fs;
use std::path::Path;

use image::{Layout, new};

fn tree() -> std::path::PathBuf {
    new::built_from()
}

#[test]
fn a_skeleton_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let made = new::create(dir.path(), "adder", &tree()).unwrap();
    Layout::from_manifest(&made.join("manifest.toml")).unwrap();
    for file in ["Cargo.toml", "build.rs", ".cargo/config.toml", "src/bin/adder.rs", "src/bin/client.rs"] {
        let text = fs::read_to_string(made.join(file)).unwrap();
        assert!(!text.contains("@NAME@") && !text.contains("@TREE@"), "{file}");
    }
    let again = new::create(dir.path(), "adder", &tree()).unwrap_err().to_string();
    assert!(again.contains("adder: cannot be made"), "{again}");
}

#[test]
fn bad_names_and_trees_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "Adder", "../x", "a b", "client", "init"] {
        assert!(new::create(dir.path(), name, &tree()).is_err(), "{name}");
    }
    let message = new::create(dir.path(), "adder", Path::new("/nowhere")).unwrap_err().to_string();
    assert_eq!(
        message,
        "/nowhere/servers/rt: is not there, and servers are built with it; say where this project's source is (--tree)"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_tutorial_quotes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = new::create(dir.path(), "adder", &tree()).unwrap().join("manifest.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("priority = 90", "priority = 200")).unwrap();
    let message = Layout::from_manifest(&manifest).unwrap_err().to_string();
    let sentence = message.strip_prefix(&format!("{}/", manifest.parent().unwrap().display())).unwrap();
    let tutorial = fs::read_to_string(tree().join("docs/tutorial.md")).unwrap();
    assert!(tutorial.contains(sentence), "{sentence}");
}
