//! A skeleton to begin with: a manifest, a server, and a client that calls it, in a crate outside this tree.

use std::path::{Path, PathBuf};

use crate::diagnostic::Diagnostics;

/// File, and what is in it.
const FILES: [(&str, &str); 6] = [
    ("manifest.toml", include_str!("template/manifest.toml.in")),
    ("Cargo.toml", include_str!("template/Cargo.toml.in")),
    ("build.rs", include_str!("template/build.rs.in")),
    (".cargo/config.toml", include_str!("template/cargo-config.toml.in")),
    ("src/bin/@NAME@.rs", include_str!("template/server.rs.in")),
    ("src/bin/client.rs", include_str!("template/client.rs.in")),
];

/// Names that cargo or the skeleton itself need for something else.
const TAKEN: [&str; 8] = ["client", "init", "core", "alloc", "std", "test", "rt", "build"];

/// The tree that this program was built from.
pub fn built_from() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// Makes directory `parent/name`. `tree` is where this project's source lies.
pub fn create(parent: &Path, name: &str, tree: &Path) -> Result<PathBuf, Diagnostics> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if name.is_empty()
        || name.len() > 31
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.bytes().all(plain)
    {
        return Err(Diagnostics::of(
            "",
            format!("\"{name}\" is not a name for a server"),
            "use at most 31 small letters, digits, - and _, beginning with a letter",
        ));
    }
    if TAKEN.contains(&name) {
        return Err(Diagnostics::of("", format!("\"{name}\" is a name with another meaning"), "choose another"));
    }
    let fail = |path: &Path, error: &dyn std::fmt::Display| {
        Diagnostics::of(path.display().to_string(), format!("cannot be made: {error}"), "choose another place")
    };
    let runtime = tree.join("servers/rt");
    let tree = tree.canonicalize().ok().filter(|_| runtime.join("link.ld").exists()).ok_or_else(|| {
        Diagnostics::of(
            runtime.display().to_string(),
            "is not there, and servers are built with it",
            "say where this project's source is (--tree)",
        )
    })?;
    let tree = tree.to_str().filter(|text| !text.contains(['"', '\\'])).ok_or_else(|| {
        Diagnostics::of(tree.display().to_string(), "is a path that TOML cannot hold as it is", "move the source")
    })?;
    let directory = parent.join(name);
    std::fs::create_dir(&directory).map_err(|error| fail(&directory, &error))?;
    for (file, text) in FILES {
        let path = directory.join(file.replace("@NAME@", name));
        let text = text.replace("@NAME@", name).replace("@TREE@", tree);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
        made.map_err(|error| fail(&path, &error))?;
    }
    Ok(directory)
}
