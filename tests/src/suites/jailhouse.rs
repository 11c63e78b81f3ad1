//! The real-time image under Jailhouse itself: its hypervisor, its driver, its tool, in place of ours. Our driver only finds the shared
//! memory function that Jailhouse shows to Linux.
//!
//! Jailhouse is not part of this tree: this suite runs when it is told where a build of it lies (`./x test --jailhouse DIR`).

use anyhow::{Result, bail};

use super::support::same;
use crate::cyclictest;
use crate::suite::{Bench, Flavour, State, Suite, Wanted, case};

/// Under the stock kernel, which has all that Jailhouse's driver looks for.
pub const SUITE: Suite = Suite {
    name: "jailhouse",
    wanted: Some(Wanted::new(State::Installed).kernel(Flavour::Stock)),
    cases: &[
        case("boots", boots),
        case("programs", programs),
        case("deadlines", deadlines),
        case("killed_servers", killed_servers),
        case("started_again", started_again),
        case("makes_way", makes_way),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// What the directory must hold: the module for Debian's stock kernel, the tool, the hypervisor for AMD.
const MODULE: &str = "jailhouse.ko";
const TOOL: &str = "jailhouse";
const HYPERVISOR: &str = "jailhouse-amd.bin";

/// Where `./x` installs the realm in the machine.
const REALM: &str = "/usr/lib/crtos";

/// Until our driver sees the realm's servers.
const UP: &str = "for i in $(seq 300); do crtos server list 2>/dev/null | grep -q 'linux .*running' && exit 0; sleep 0.1; done; exit 1";

fn tool(bench: &Bench<'_>) -> Result<String> {
    Ok(bench.builder.jailhouse()?.join(TOOL).display().to_string())
}

/// Loads the image anew and starts it.
fn start(bench: &mut Bench<'_>) -> Result<()> {
    let jailhouse = tool(bench)?;
    let image = ipc::image::LOAD_ADDRESS;
    bench.ok(&format!(
        "{jailhouse} cell load srtos {REALM}/srtos.bin -a {image:#x} && {jailhouse} cell start srtos && {{ {UP}; }}"
    ))?;
    Ok(())
}

/// The configurations are those that our own tools make: the system's by `crtos config create`, the cell's by the composer.
fn boots(bench: &mut Bench<'_>) -> Result<()> {
    let directory = bench.builder.jailhouse()?.to_owned();
    for file in [MODULE, TOOL, HYPERVISOR] {
        if !directory.join(file).exists() {
            bail!("{} has no {file}: build Jailhouse for Debian's stock kernel first", directory.display());
        }
    }
    let (directory, jailhouse) = (directory.display(), tool(bench)?);
    bench.ok(&format!(
        "crtos config create system.cell && cp {directory}/{HYPERVISOR} /lib/firmware && insmod {directory}/{MODULE} \
         && {jailhouse} enable system.cell && insmod {REALM}/crtos.ko && {jailhouse} cell create {REALM}/srtos.cell"
    ))?;
    start(bench)?;
    let console = bench.ok(&format!("{jailhouse} console"))?;
    if !console.contains("Initializing Jailhouse hypervisor") || !console.contains("init: ready") {
        bail!("the hypervisor's console says:\n{console}");
    }
    Ok(())
}

fn programs(bench: &mut Bench<'_>) -> Result<()> {
    same("a program's output", bench.ok("crtos run /bin/echo under Jailhouse")?, "under Jailhouse\n".into())?;
    let script = "import threading\nt = [threading.Thread(target=print, args=(i,)) for i in range(8)]\n[(x.start(), x.join()) for x in t]";
    let printed: String = (0..8).map(|number| format!("{number}\n")).collect();
    same("eight threads", bench.ok(&format!("crtos run /usr/bin/python3 -c '{script}'"))?, printed)
}

fn deadlines(bench: &mut Bench<'_>) -> Result<()> {
    let output = bench.ok("crtos run cyclictest -m -q -p 90 -i 1000 -l 1000")?;
    same("cycles", cyclictest::parse(&output)?.cycles, 1000)
}

fn killed_servers(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos run /bin/sh -c 'read x; echo $x' < <(crtos server kill linux; crtos server kill vfs-proxy; echo still here) > said")?;
    same("what it read", bench.ok("cat said")?, "still here\n".into())?;
    let servers = bench.ok("crtos server list")?;
    for name in ["linux", "vfs-proxy"] {
        let generation =
            servers.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().nth(3));
        same(name, generation, Some("1"))?;
    }
    Ok(())
}

/// The image answers Jailhouse's request to shut down.
fn started_again(bench: &mut Bench<'_>) -> Result<()> {
    let jailhouse = tool(bench)?;
    bench.ok(&format!("{jailhouse} cell shutdown srtos"))?;
    start(bench)?;
    same("a program's output", bench.ok("crtos run /bin/echo again")?, "again\n".into())
}

/// Jailhouse goes, and our hypervisor comes, under the same Linux.
fn makes_way(bench: &mut Bench<'_>) -> Result<()> {
    let jailhouse = tool(bench)?;
    bench.ok(&format!("{jailhouse} cell destroy srtos && rmmod crtos && {jailhouse} disable && rmmod jailhouse"))?;
    bench.ok("crtos enable && crtos cell create && crtos cell load && crtos cell start")?;
    same("a program's output", bench.ok("crtos run /bin/echo our own")?, "our own\n".into())
}
