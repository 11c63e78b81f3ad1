//! The harness itself: a machine with nothing of ours in it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::support::{noise, same};
use crate::suite::{Bench, Flavour, State, Suite, Wanted, case, said};

const MACHINE: Wanted = Wanted::new(State::Plain);

/// Under the PREEMPT_RT kernel.
pub const RT: Suite = Suite {
    name: "plain",
    wanted: Some(MACHINE),
    cases: &[
        case("status", status),
        case("bytes", bytes),
        case("early_exit", early_exit),
        case("left_behind", left_behind),
        case("work_directory", work_directory),
        case("system", system),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Under the stock kernel.
pub const STOCK: Suite = Suite {
    name: "plain-stock",
    wanted: Some(MACHINE.kernel(Flavour::Stock)),
    cases: &[case("status", status), case("system", system), case("dmesg", |bench| bench.dmesg_is_clean())],
};

fn status(bench: &mut Bench<'_>) -> Result<()> {
    same("exit 0", bench.sh("exit 0")?.status, 0)?;
    same("exit 7", bench.sh("exit 7")?.status, 7)?;
    same("killed", bench.sh("kill -TERM $$")?.status, 128 + 15)
}

fn bytes(bench: &mut Bench<'_>) -> Result<()> {
    let sent = noise(1 << 20);
    let output = bench.run(&["/bin/sh", "-c", "tee /dev/stderr"], &sent)?;
    same("status", output.status, 0)?;
    if output.stdout != sent || output.stderr != sent {
        bail!(
            "1 MiB of noise came back as {} and {} bytes, or as other bytes",
            output.stdout.len(),
            output.stderr.len()
        );
    }
    Ok(())
}

/// A command that does not read its input must not upset the next one's.
fn early_exit(bench: &mut Bench<'_>) -> Result<()> {
    same("true", bench.run(&["/bin/true"], &noise(1 << 20))?.status, 0)?;
    let output = bench.run(&["/bin/cat"], b"next")?;
    same("cat", output.stdout.as_slice(), b"next")
}

/// A process that is left behind with our output open must not keep us waiting.
fn left_behind(bench: &mut Bench<'_>) -> Result<()> {
    let start = Instant::now();
    let output = bench.sh("sleep 1000 & echo started")?;
    same("output", output.stdout.as_slice(), b"started\n")?;
    if start.elapsed() > Duration::from_secs(60) {
        bail!("waited for it");
    }
    bench.ok("kill %1 2>/dev/null || pkill -x sleep").map(drop)
}

fn work_directory(bench: &mut Bench<'_>) -> Result<()> {
    fs::write(bench.scratch.join("from-here"), "here\n")?;
    let directory = bench.scratch.display().to_string();
    same("its path", bench.ok("pwd")?, format!("{directory}\n"))?;
    same("our file", bench.ok("cat from-here; echo there > from-there")?, "here\n".into())?;
    same("its file", fs::read_to_string(bench.scratch.join("from-there"))?, "there\n".into())?;
    // And the rest of this machine's files stay as they are.
    bench.ok("echo changed > /etc/crtos-test && cat /etc/crtos-test")?;
    same("the root", std::path::Path::new("/etc/crtos-test").exists(), false)
}

fn system(bench: &mut Bench<'_>) -> Result<()> {
    let release = bench.ok("uname -r; test $(nproc) = 4; modprobe dummy; ls -d /sys/module/dummy")?;
    if !release.starts_with("6.1.") {
        bail!("kernel {release}");
    }
    let output = bench.sh("exec 3<>/dev/tcp/127.0.0.1/1")?;
    if !said(&output).contains("refused") {
        bail!("no loopback network: {}", said(&output));
    }
    Ok(())
}
