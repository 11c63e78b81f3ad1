//! Manifests that must be refused, each with its exact sentence.
//!
//! The first lines of a fixture say what is expected: `# expect: LINE: MESSAGE; CURE`, one for each finding.
//! `COMPOSE_BLESS=1` writes the one finding into fixtures that expect `?`.

use super::common;
use std::fs;
use std::path::{Path, PathBuf};

use image::{BuildInputs, Layout};

fn findings(result: Result<(), image::Diagnostics>) -> Vec<String> {
    let found = result.err().map(|d| d.0).unwrap_or_default();
    found.iter().map(|d| format!("{}: {}; {}", d.line, d.message, d.cure)).collect()
}

/// All that stands between a manifest and its image, programs included.
fn build(path: &Path, inputs: &BuildInputs) -> Vec<String> {
    let found = findings(image::build(path, inputs).map(drop));
    assert!(!inputs.out_dir.exists() || found.is_empty(), "{}: refused, and written", path.display());
    found
}

fn fixtures(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_fixture_is_refused_with_its_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let inputs = common::inputs(directory.path());
    let paths = fixtures("tests/reject");
    assert!(paths.len() >= 60, "{}", paths.len());
    let mut wrong = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        let expected: Vec<_> = text.lines().map_while(|line| line.strip_prefix("# expect: ")).collect();
        let found = build(path, &inputs);
        if expected == ["?"] && found.len() == 1 && std::env::var_os("COMPOSE_BLESS").is_some() {
            fs::write(path, text.replacen("# expect: ?", &format!("# expect: {}", found[0]), 1)).unwrap();
            continue;
        }
        if found.is_empty() || found != expected {
            wrong.push(format!("{}:\n  expected {expected:#?}\n  found {found:#?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_manifest_that_ships_is_accepted() {
    for path in fixtures("manifests") {
        assert_eq!(findings(Layout::from_manifest(&path).map(drop)), Vec::<String>::new(), "{}", path.display());
    }
}
