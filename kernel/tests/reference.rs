//! The call table of `docs/kernel.md` is the one of `ipc::calls`. `BLESS=1` writes it.

use ipc::calls::CALLS;
use std::fmt::Write;
use std::path::Path;

const MARK: &str = "<!-- calls: written by `BLESS=1 cargo test -p kernel --test reference` from ipc/src/calls.rs -->\n";

fn table() -> String {
    let mut out = String::from(
        "\n| # | call | on | rights | arguments → results | what | errors |\n|---|---|---|---|---|---|---|\n",
    );
    for info in CALLS {
        let on = info.object.map_or(String::from("–"), |object| format!("{object:?}"));
        let rights: Vec<&str> = info.rights.iter_names().map(|(name, _)| name).collect();
        let errors: Vec<String> = info.errors.iter().map(|error| format!("{error:?}")).collect();
        let arguments = info.arguments.join(", ");
        let results = if info.results.is_empty() { String::new() } else { format!(" → {}", info.results.join(", ")) };
        let _ = writeln!(
            out,
            "| {} | `{}` | {on} | {} | {arguments}{results} | {} | {} |",
            info.call as u8,
            info.name,
            rights.join(" "),
            info.doc,
            errors.join(", ")
        );
    }
    out
}

#[test]
#[cfg_attr(miri, ignore = "reads a file")]
fn the_call_table_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernel.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, tail) = text.split_once(MARK).expect("the mark is there");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{}", table())).unwrap();
    } else {
        assert!(tail == table(), "run: BLESS=1 cargo test -p kernel --test reference");
    }
}
