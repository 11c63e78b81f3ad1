//! A Linux that has turned against the real-time realm: a program of root's writes garbage, forgeries and replays into all that the realms share, while
//! programs run. Only those may see anything of it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipc::image::LOAD_ADDRESS;

use super::servers::until;
use super::support::{crtos_run, same};
use crate::qmp::Qmp;
use crate::suite::{Bench, Suite, Wanted, case, long};

/// Linux lets root reach the memory. Servers can be killed on order, but none crashes on order that root does not mean to.
pub const SUITE: Suite = Suite {
    name: "hostile",
    wanted: Some(Wanted { option: Some("iomem=relaxed"), ..super::CRASH_MACHINE }),
    cases: &[
        case("trespass", trespass),
        case("garbage", |bench| garbage(bench, 20)),
        long("garbage_ten_minutes", |bench| garbage(bench, 600)),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// The programs that the channel is attacked of: they end as they may, and others follow.
const LOAD: &str = r#"
    touch going
    (while [ -e going ]; do
        timeout -s KILL 10 crtos run /bin/sh -c 'i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done' > lines
        echo lines $? >> statuses; done) &
    (while [ -e going ]; do
        seq 20000 | timeout -s KILL 10 crtos run /usr/bin/sort -R > sorted; echo sort $? >> statuses; done) &
    (while [ -e going ]; do
        timeout -s KILL 10 crtos run /usr/bin/cyclictest -q -p 90 -t 3 -i 1000 -l 500 > times; echo cyclictest $? >> statuses; done) &
    wait; touch ended"#;

/// What a trespasser writes.
pub const TRESPASS: u64 = 0x7e5b_a550_0ba5_e5a1;

/// Where things lie in the machine, as the manifest says.
struct Places {
    /// The cell's private memory: address, bytes.
    private: (u64, u64),
    /// The shared memory device: address, bytes of `rw` and of an output section.
    device: (u64, u64, u64),
    bdf: String,
}

impl Places {
    fn of(bench: &Bench<'_>) -> Result<Places> {
        let text = fs::read_to_string(bench.builder.root().join("image/manifests/crash.toml"))?;
        let manifest: toml::Value = text.parse::<toml::Table>()?.into();
        let find =
            |path: &[&str]| path.iter().try_fold(&manifest, |value, name| value.get(name)).context(path.join("."));
        let number = |path: &[&str]| Ok::<_, anyhow::Error>(find(path)?.as_integer().context(path.join("."))? as u64);
        let size = |path: &[&str]| {
            let text = find(path)?.as_str().and_then(|text| text.strip_suffix(" MiB"));
            Ok::<_, anyhow::Error>(text.context(path.join("."))?.parse::<u64>()? << 20)
        };
        Ok(Places {
            private: (number(&["cell", "private", "physical"])?, size(&["cell", "private", "size"])?),
            device: (
                number(&["ivshmem", "shadow", "physical"])?,
                size(&["ivshmem", "shadow", "rw_size"])?,
                size(&["ivshmem", "shadow", "output_size"])?,
            ),
            bdf: find(&["ivshmem", "shadow", "bdf"])?.as_str().context("bdf")?.to_owned(),
        })
    }

    /// What the real-time side writes: address, bytes.
    fn output1(&self) -> (u64, u64) {
        let (address, rw, output) = self.device;
        (address + 4096 + rw + output, output)
    }

    /// As the attacker takes it.
    fn arguments(&self) -> String {
        let (address, rw, output) = self.device;
        format!("{address:#x} {rw:#x} {output:#x} 0000:{}", self.bdf)
    }
}

/// Pages of the image that are in the cell's memory as they were composed: code, constants, the manifest, and what new instances are made of.
fn whole_pages(bench: &mut Bench<'_>, private: u64) -> Result<Vec<usize>> {
    const PAGE: usize = 4096;
    let image = fs::read(bench.builder.root().join("build/image/crash/srtos.bin"))?;
    let file = bench.scratch.join("memory");
    let memory = Qmp::connect(&bench.vm()?.qmp())?.memory(private + LOAD_ADDRESS, image.len(), &file)?;
    let pages = image.chunks(PAGE).zip(memory.chunks(PAGE)).enumerate();
    let whole: Vec<usize> = pages.filter(|(_, (built, is))| built == is).map(|(page, _)| page).collect();
    if whole.len() * PAGE < image.len() / 10 * 9 {
        bail!("only {} of {} pages are as they were composed", whole.len(), image.len() / PAGE);
    }
    Ok(whole)
}

/// Turns of init's board, and beats of the servers that use nothing but the kernel.
fn signs_of_life(bench: &mut Bench<'_>) -> Result<[u64; 2]> {
    same("init", bench.ok("crtos server list | awk '$1 == \"init\" { print $3 }'")?.trim(), "running")?;
    let console = bench.vm()?.console()?;
    for bad in
        ["panicked", " crashed: ", " spins: ", "the first process is dead", "\"srtos\" stopped", "\"root\" stopped"]
    {
        if let Some(line) = console.lines().find(|line| line.contains(bad)) {
            bail!("the console says: {line}");
        }
    }
    // Each says so every two seconds.
    let beats = |server: &str| {
        let said = console.lines().rev().find_map(|line| line.split_once(server))?.1;
        said.split(',').next()?.trim().parse().ok()
    };
    Ok(["heartbeat: beat ", "mortal: beat "].map(|server| beats(server).unwrap_or(0)))
}

fn garbage(bench: &mut Bench<'_>, seconds: u64) -> Result<()> {
    let program = bench.builder.program("hostile")?.display().to_string();
    let places = Places::of(bench)?;
    let (place, private) = (places.arguments(), places.private.0);
    let seed = std::env::var("CRTOS_SEED").map_or(Ok(1), |seed| seed.parse()).context("CRTOS_SEED")?;
    eprintln!("    {seconds} s, CRTOS_SEED={seed}");
    bench.limit = Duration::from_secs(seconds + 120);
    fs::write(bench.scratch.join("load"), LOAD)?;
    crtos_run(bench, &["/bin/true"], b"")?;
    let whole = whole_pages(bench, private)?;
    let before = signs_of_life(bench)?;
    let generations = "crtos server list | awk '$1 == \"heartbeat\" || $1 == \"mortal\" { print $1, $3, $4 }'";
    let bystanders = bench.ok(generations)?;
    bench.ok("rm -f statuses ended; setsid /bin/bash ./load </dev/null >/dev/null 2>errors & true")?;
    let done = bench.ok(&format!("{program} attack {seed} {} {place}", 1000 * seconds))?;
    eprintln!("    {}", done.trim());
    // Whatever hangs now was waiting for the channel.
    bench.ok("rm going; for i in $(seq 600); do [ -e ended ] && exit 0; sleep 0.1; done; ps ax; exit 1")?;
    let statuses = bench.ok("sort statuses | uniq -c")?;
    eprintln!("    {}", statuses.split_whitespace().collect::<Vec<_>>().join(" "));
    let after = signs_of_life(bench)?;
    // Beats of 100 and 500 ms; a host without time for the emulator takes some.
    for (what, before, after, due) in
        [("heartbeat", before[0], after[0], 10 * seconds), ("mortal", before[1], after[1], 2 * seconds)]
    {
        if after < before + due / 2 {
            bail!("{what} has beaten {} times in {seconds} s", after - before);
        }
    }
    same("the servers that have nothing to do with Linux", bench.ok(generations)?, bystanders)?;
    same("pages as composed", whole_pages(bench, private)?, whole)?;
    // Linux comes to its senses.
    bench.ok(&format!(
        "crtos cell destroy && {program} restore {place} && crtos cell create && crtos cell load && crtos cell start"
    ))?;
    let echo = crtos_run(bench, &["/bin/echo", "alive"], b"")?;
    same("a program in the new life", (echo.status, echo.stdout.as_slice()), (0, &b"alive\n"[..]))
}

/// What Linux writes into memory that it may not write goes nowhere: the other side's section, and the memory of its cell.
fn trespass(bench: &mut Bench<'_>) -> Result<()> {
    let places = Places::of(bench)?;
    let before = signs_of_life(bench)?;
    let program = bench.builder.program("hostile")?;
    for (address, bytes) in [places.output1(), places.private] {
        bench.ok(&format!("{} trespass {address:#x} {bytes:#x}", program.display()))?;
        let file = bench.scratch.join("memory");
        let memory = Qmp::connect(&bench.vm()?.qmp())?.memory(address, bytes as usize, &file)?;
        let hits = memory.chunks(4096).filter(|page| page.starts_with(&TRESPASS.to_ne_bytes())).count();
        same("pages that Linux has written", hits, 0)?;
    }
    until(|| Ok(signs_of_life(bench)?.iter().zip(before).all(|(now, then)| *now > then)))?;
    same("a program", crtos_run(bench, &["/bin/true"], b"")?.status, 0)
}
