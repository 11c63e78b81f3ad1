//! `./x bench`: runs the groups and prints what they measured.

use anyhow::{Result, bail};

use crate::bench::{Figure, GROUPS};
use crate::cli;
use crate::setup;
use crate::tree::{Tree, say};

/// Runs the groups asked for.
pub fn run(tree: &Tree, options: cli::Bench) -> Result<u8> {
    setup::programs()?;
    let groups: Vec<_> =
        GROUPS.iter().filter(|group| options.group.as_ref().is_none_or(|name| name == group.name)).collect();
    if groups.is_empty() {
        let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!("there is no such group; there are: {}", names.join(", "));
    }
    let mut missed = Vec::new();
    for group in groups {
        say(&format!("measuring {}: {}", group.name, group.what));
        for figure in (group.measure)(tree)? {
            if options.json {
                println!("{}", json(&figure));
            } else {
                println!("{}", line(&figure));
            }
            if !figure.kept() {
                missed.push(figure.name);
            }
        }
    }
    if options.check && !missed.is_empty() {
        say(&format!("not as promised: {}", missed.join(", ")));
        return Ok(1);
    }
    Ok(0)
}

fn line(figure: &Figure) -> String {
    let promise = match figure.at_most {
        Some(limit) if figure.kept() => format!("  (at most {limit})"),
        Some(limit) => format!("  MISSED: at most {limit}"),
        None => String::new(),
    };
    let spread = match figure.spread {
        Some([median, min, max, n]) if n > 1 => format!("  median {median} min {min} max {max} n {n}"),
        _ => String::new(),
    };
    format!("{:<40} {:>12} {}{spread}{promise}", figure.name, figure.value, figure.unit)
}

fn json(figure: &Figure) -> serde_json::Value {
    serde_json::json!({
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "at_most": figure.at_most,
        "kept": figure.kept(),
        "median": figure.spread.map(|spread| spread[0]),
        "min": figure.spread.map(|spread| spread[1]),
        "max": figure.spread.map(|spread| spread[2]),
        "n": figure.spread.map(|spread| spread[3]),
    })
}
