//! What a server holds is what `image report` says, and nothing else: the program `audit` takes each server's place, looks into
//! its capability table from inside, and says what is there.
//!
//! `init` gives by the manifest alone, so who stands in a server's place holds what the server would.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml::{Table, Value as Toml};

use super::support::same;
use crate::realm::BRING_UP;
use crate::suite::{Bench, State, Suite, Wanted, case};

/// Standalone, and in a cell, where the devices are there too.
pub const SUITE: Suite = Suite {
    name: "authority",
    wanted: None,
    cases: &[case("minimal", minimal), case("faults", faults), case("added", added), case("default", default)],
};

const LIMIT: Duration = Duration::from_secs(120);

/// What servers hold: (server, slot) and what is there, in words.
type Held = BTreeMap<(String, u64), String>;

fn shipped(bench: &Bench<'_>, name: &str) -> PathBuf {
    bench.builder.root().join(format!("image/manifests/{name}.toml"))
}

/// What the report says of a manifest, and how many servers there are.
fn reported(bench: &Bench<'_>, manifest: &Path) -> Result<(Held, usize)> {
    let output = Command::new(bench.builder.front_door()?)
        .args(["image", "report", "--format", "json"])
        .arg(manifest)
        .current_dir(&bench.scratch)
        .output()?;
    if !output.status.success() {
        bail!("no report: {}", String::from_utf8_lossy(&output.stderr));
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let mut held = Held::new();
    let servers = report["servers"].as_array().context("servers")?;
    for server in servers {
        let name = server["name"].as_str().context("a name")?;
        for cap in server["capabilities"].as_array().context("capabilities")? {
            let number = |field: &str| cap[field].as_u64().with_context(|| format!("{field} in {cap}"));
            let text = |field: &str| cap[field].as_str().with_context(|| format!("{field} in {cap}"));
            let mut words = format!("{} {} {}", text("object")?, text("rights")?, number("badge")?);
            words += &frame(number("guest")?, number("bytes")?);
            held.insert((name.to_owned(), number("slot")?), words);
        }
    }
    Ok((held, servers.len()))
}

/// Where a Frame lies and how large it is.
fn frame(guest: u64, bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", {bytes:#x} bytes at {guest:#x}") }
}

/// The same manifest with `audit` in the place of its servers.
fn audited(bench: &Bench<'_>, manifest: &Path, name: &str) -> Result<PathBuf> {
    let mut table: Table = fs::read_to_string(manifest)?.parse()?;
    for server in table["server"].as_array_mut().context("servers")? {
        let server = server.as_table_mut().context("a server")?;
        same("it may use the console", server.get("console"), Some(&Toml::Boolean(true)))?;
        server.insert("binary".into(), "audit".into());
    }
    let path = bench.scratch.join(format!("{name}.toml"));
    fs::write(&path, table.to_string())?;
    Ok(path)
}

/// Takes a line of `audit`; whether the server has said all.
fn hear(line: &str, private: (u64, u64), held: &mut Held) -> Result<bool> {
    let Some((server, rest)) = line.split_once(": holds ") else { return Ok(false) };
    let words: Vec<&str> = rest.split(' ').collect();
    if let [count, "capabilities", "in", "all"] = words[..] {
        let seen = held.keys().filter(|(name, _)| name == server).count();
        same(&format!("lines of {server}"), seen, count.parse()?)?;
        return Ok(true);
    }
    let [slot, object, rights, badge, physical, bytes] = words[..] else { bail!("not understood: {line}") };
    let mut guest: u64 = physical.parse()?;
    if (private.0..private.1).contains(&guest) {
        guest = 0;
    }
    let found = format!("{object} {rights} {badge}{}", frame(guest, bytes.parse()?));
    held.insert((server.to_owned(), slot.parse()?), found);
    Ok(false)
}

/// The cell's private memory.
fn private(manifest: &Path) -> Result<(u64, u64)> {
    let table: Table = fs::read_to_string(manifest)?.parse()?;
    let size = table["cell"]["private"]["size"].as_str().and_then(|text| text.strip_suffix(" MiB"));
    Ok((0, size.context("a size in MiB")?.parse::<u64>()? << 20))
}

/// What is there and not reported, or reported and not there.
fn differences(reported: &Held, found: &Held) -> Vec<String> {
    let mut lines = Vec::new();
    for (key @ (server, slot), what) in found {
        match reported.get(key) {
            Some(said) if said == what => {}
            Some(said) => lines.push(format!("{server} holds {what} in slot {slot}, and the report says {said}")),
            None => lines.push(format!("{server} holds {what} in slot {slot}, of which the report says nothing")),
        }
    }
    let missing = reported.keys().filter(|key| !found.contains_key(key));
    lines.extend(missing.map(|key| format!("{} does not hold {} in slot {}", key.0, reported[key], key.1)));
    lines
}

/// Boots a manifest's audit without Linux; what its servers hold.
fn boot_alone(bench: &Bench<'_>, manifest: &Path, servers: usize) -> Result<Held> {
    let name = manifest.file_stem().and_then(|stem| stem.to_str()).context("a name")?;
    let path = audited(bench, manifest, &format!("{name}-audit"))?;
    let mut running = bench.builder.standalone(&path.to_string_lossy(), "authority")?.boot()?;
    let deadline = Instant::now() + LIMIT;
    let (mut held, mut done) = (Held::new(), 0);
    while done < servers {
        let line = running.line(deadline)?.context("it ended too soon")?;
        done += usize::from(hear(&line, private(manifest)?, &mut held)?);
    }
    Ok(held)
}

fn equal(reported: &Held, found: &Held) -> Result<()> {
    let differences = differences(reported, found);
    if !differences.is_empty() {
        bail!("{}", differences.join("\n"));
    }
    Ok(())
}

fn minimal(bench: &mut Bench<'_>) -> Result<()> {
    let manifest = shipped(bench, "minimal");
    let (reported, servers) = reported(bench, &manifest)?;
    equal(&reported, &boot_alone(bench, &manifest, servers)?)
}

fn faults(bench: &mut Bench<'_>) -> Result<()> {
    let manifest = shipped(bench, "faults");
    let (reported, servers) = reported(bench, &manifest)?;
    equal(&reported, &boot_alone(bench, &manifest, servers)?)
}

/// A capability too many is noticed: the image is made from a manifest with one more than the report was made from.
fn added(bench: &mut Bench<'_>) -> Result<()> {
    let manifest = shipped(bench, "minimal");
    let (reported, servers) = reported(bench, &manifest)?;
    let text = fs::read_to_string(&manifest)?
        + "memory = [{ region = \"extra\", access = \"r\" }]\n[memory.extra]\nsize = 8192\n";
    let more = bench.scratch.join("more.toml");
    fs::write(&more, text)?;
    let found = differences(&reported, &boot_alone(bench, &more, servers)?);
    let wanted = "heartbeat holds Frame r 0, 0x2000 bytes at 0x0 in slot 16, of which the report says nothing";
    same("what was noticed", found, vec![wanted.to_owned()])
}

/// The default system, in its cell. `audit` speaks no shadow protocol, so the cell never counts as up; its console is read.
fn default(bench: &mut Bench<'_>) -> Result<()> {
    let manifest = shipped(bench, "default");
    let (reported, servers) = reported(bench, &manifest)?;
    let path = audited(bench, &manifest, "default-audit")?;
    let path: &'static str = path.to_string_lossy().into_owned().leak();
    let mut wanted = Wanted::new(State::Installed);
    wanted.manifest = path;
    let mut vm = bench.builder.boot(&wanted, "authority", &bench.scratch)?;
    let [steps @ .., start] = &BRING_UP;
    // Who waits for the cell to be up waits in vain, and must not hold our streams meanwhile.
    let script = format!("set -e\n{}{} > /dev/null 2>&1 &\n", crate::realm::script(steps), start.argv.join(" "));
    let command = crate::wire::Command {
        argv: ["/bin/bash", "-c", &script].map(Into::into).into(),
        env: crate::suite::environment(),
        cwd: bench.scratch.clone().into(),
        terminal: None,
    };
    let output = vm.capture(&command, b"", LIMIT)?;
    if output.status != 0 {
        bail!("{}", crate::suite::said(&output));
    }
    let deadline = Instant::now() + LIMIT;
    let log = loop {
        let log = vm.console()?;
        if log.matches("capabilities in all").count() >= servers || Instant::now() > deadline {
            break log;
        }
        thread::sleep(Duration::from_millis(100));
    };
    let (mut held, mut done) = (Held::new(), 0);
    for line in log.lines() {
        done += usize::from(hear(line, private(&manifest)?, &mut held)?);
    }
    if done < servers {
        bail!("only {done} servers spoke:\n{log}");
    }
    equal(&reported, &held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_audit_are_understood() {
        let mut held = Held::new();
        assert!(!hear("a: holds 5 Endpoint rw 0 0 0", (0, 100), &mut held).unwrap());
        assert!(!hear("a: holds 16 Frame r 0 64 4096", (0, 100), &mut held).unwrap());
        assert!(!hear("init: ready", (0, 100), &mut held).unwrap());
        assert!(hear("a: holds 2 capabilities in all", (0, 100), &mut held).unwrap());
        assert!(hear("a: holds 3 capabilities in all", (0, 100), &mut held).is_err());
        assert_eq!(held[&("a".into(), 16)], "Frame r 0, 0x1000 bytes at 0x0");
        let mut other = held.clone();
        assert_eq!(differences(&held, &other), Vec::<String>::new());
        other.remove(&("a".into(), 5));
        assert_eq!(differences(&held, &other), ["a does not hold Endpoint rw 0 in slot 5"]);
        other.insert(("a".into(), 16), "Frame rw 0".into());
        assert_eq!(differences(&held, &other).len(), 2);
    }
}
