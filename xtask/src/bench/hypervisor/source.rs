//! How much source there is.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Figure;

/// Lines of Rust that are neither empty nor comments nor tests, and blocks of `unsafe` among them.
pub fn measure(directory: &Path) -> Result<Vec<Figure>> {
    let (mut lines, mut blocks) = (0, 0);
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                directories.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path)?;
                let code = text.lines().take_while(|line| *line != "mod tests {").map(str::trim);
                for line in code.filter(|line| !line.is_empty() && !line.starts_with("//")) {
                    lines += 1;
                    blocks += line.matches("unsafe {").count() as u64;
                }
            }
        }
    }
    Ok(vec![Figure::new("hypervisor.lines", lines, "lines"), Figure::new("hypervisor.unsafe", blocks, "blocks")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tests_are_no_code() {
        let directory = std::env::temp_dir().join(format!("crtos-lines-{}", std::process::id()));
        fs::create_dir_all(directory.join("tests")).unwrap();
        fs::write(directory.join("a.rs"), "// no\nfn a() {\n\n    unsafe { b() };\n}\nmod tests {\n    fn c() {}\n}\n")
            .unwrap();
        fs::write(directory.join("tests/b.rs"), "fn d() {}\n").unwrap();
        let figures = measure(&directory).unwrap();
        assert_eq!((figures[0].value, figures[1].value), (3, 1));
        fs::remove_dir_all(directory).unwrap();
    }
}
