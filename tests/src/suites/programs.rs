//! Stock programs in the real-time realm behave as in Linux.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::support::{as_native, crtos_run, in_use, noise, program, same};
use crate::cyclictest;
use crate::suite::{Bench, Flavour, State, Suite, Wanted, case, long, said};

const MACHINE: Wanted = Wanted::new(State::Running);

/// Under the PREEMPT_RT kernel.
pub const RT: Suite = Suite {
    name: "programs",
    wanted: Some(MACHINE),
    cases: &[
        case("echo", echo),
        case("status", status),
        case("streams", streams),
        case("files", files),
        case("digest", digest),
        case("not_a_program", not_a_program),
        case("abi", abi),
        case("ends", ends),
        case("scheduling", scheduling),
        case("cyclictest", one_cyclictest),
        case("direct_io", direct_io),
        case("fifty", fifty),
        long("five_hundred", five_hundred),
        case("tools", tools),
        case("given_up", given_up),
        case("crash_forbidden", crash_forbidden),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// Under the stock kernel.
pub const STOCK: Suite = Suite {
    name: "programs-stock",
    wanted: Some(MACHINE.kernel(Flavour::Stock)),
    cases: &[
        case("echo", echo),
        case("status", status),
        case("digest", digest),
        case("cyclictest", one_cyclictest),
        case("fifty", fifty),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

fn echo(bench: &mut Bench<'_>) -> Result<()> {
    let output = crtos_run(bench, &["/bin/echo", "Hello World from sRTOS!"], b"")?;
    if output.status != 0 || output.stdout != b"Hello World from sRTOS!\n" {
        bail!("status {}\n{}", output.status, said(&output));
    }
    Ok(())
}

fn status(bench: &mut Bench<'_>) -> Result<()> {
    same("exit 7", crtos_run(bench, &["/bin/sh", "-c", "exit 7"], b"")?.status, 7)?;
    same("false", crtos_run(bench, &["/bin/false"], b"")?.status, 1)?;
    // Found on the PATH, as a shell would.
    same("true", crtos_run(bench, &["true"], b"")?.status, 0)
}

fn streams(bench: &mut Bench<'_>) -> Result<()> {
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    as_native(bench, &["/usr/bin/sort", "-rn"], numbers.as_bytes())?;
    as_native(bench, &["/bin/cat"], &noise(1 << 20))?;
    as_native(bench, &["/usr/bin/od", "-c"], &noise(10_000))?;
    as_native(bench, &["/bin/dd", "bs=1000", "count=7", "status=none"], &noise(10_000))?;
    as_native(bench, &["/bin/cat", "/no/such/file"], b"")
}

fn files(bench: &mut Bench<'_>) -> Result<()> {
    as_native(bench, &["/usr/bin/env"], b"")?;
    as_native(bench, &["/bin/cat", "/etc/passwd", "/proc/version"], b"")?;
    as_native(bench, &["/bin/ls", "-l", "/etc"], b"")?;
    as_native(bench, &["/bin/pwd"], b"")?;
    // The number of links of /proc is the number of processes, and /tmp and /dev live.
    let ls = crtos_run(bench, &["/bin/ls", "-l", "/"], b"")?;
    let native = bench.run(&["/bin/ls", "-l", "/"], b"")?;
    let stable = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().filter(|l| !l.ends_with(" proc")).map(str::to_owned).collect()
    };
    same("ls -l /", stable(&ls.stdout), stable(&native.stdout))?;
    same("ls -l /", ls.status, 0)?;
    let seconds = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().parse::<i64>();
    let before = seconds(&bench.run(&["/bin/date", "+%s"], b"")?.stdout)?;
    let date = crtos_run(bench, &["/bin/date", "+%s"], b"")?;
    let now = seconds(&date.stdout).with_context(|| said(&date))?;
    let after = seconds(&bench.run(&["/bin/date", "+%s"], b"")?.stdout)?;
    if !(before - 1..=after + 1).contains(&now) {
        bail!("date: {now}, and in Linux {before} before and {after} after it");
    }
    Ok(())
}

fn digest(bench: &mut Bench<'_>) -> Result<()> {
    fs::write(bench.scratch.join("20M"), noise(20 << 20))?;
    bench.limit = Duration::from_secs(300);
    let sum = bench.here("sha256sum 20M")?;
    let ours = crtos_run(bench, &["/usr/bin/sha256sum", "20M"], b"")?;
    same("sha256sum of 20 MiB", String::from_utf8_lossy(&ours.stdout).into_owned(), sum)
}

fn not_a_program(bench: &mut Bench<'_>) -> Result<()> {
    let missing = crtos_run(bench, &["/no/such/program"], b"")?;
    same("a program that is not there", missing.status, 127)?;
    same("lines about it", said(&missing).lines().count(), 2)?;
    let text = crtos_run(bench, &["/etc/passwd"], b"")?;
    same("a file that is no program", text.status, 126)?;
    bench.ok("printf '\\177ELF\\2\\1\\1garbage' > bad; chmod +x bad")?;
    same("a damaged program", crtos_run(bench, &["./bad"], b"")?.status, 126)?;
    // And nothing is left of them.
    echo(bench)
}

/// What a program may rely on, point by point.
fn abi(bench: &mut Bench<'_>) -> Result<()> {
    let program = program(bench, "abi")?;
    bench.limit = Duration::from_secs(120);
    as_native(bench, &[&program], b"")?;
    same("status", crtos_run(bench, &[&program], b"")?.status, 0)
}

/// The ways in which a program can end by itself.
fn ends(bench: &mut Bench<'_>) -> Result<()> {
    let program = program(bench, "abi")?;
    for (way, status, said) in [("abort", 128 + 6, ""), ("segv", 128 + 11, ""), ("leader", 9, "outlived\n")] {
        let output = crtos_run(bench, &[&program, way], b"")?;
        same(way, (output.status, String::from_utf8_lossy(&output.stdout).as_ref()), (status, said))?;
    }
    Ok(())
}

/// The personality dies more often than its manifest allows: it stays dead until it is started again. Who ran before cannot reach it and ends.
fn given_up(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos run /bin/true")?;
    let before = in_use(bench)?;
    let script = r#"
        crtos run /bin/sleep 1000 & sleep=$!
        for i in $(seq 100); do [ $(crtos ps | grep -c sleep) = 1 ] && break; sleep 0.1; done
        for i in $(seq 20); do
            crtos server kill linux || exit 97
            crtos server list | grep -q 'linux .* dead' && break
        done
        crtos server restart linux || exit 96
        wait $sleep; echo $?
        crtos run /bin/echo alive"#;
    same("statuses", bench.ok(script)?, "137\nalive\n".into())?;
    same("what is in use", in_use(bench)?, before)
}

fn scheduling(bench: &mut Bench<'_>) -> Result<()> {
    for (command, policy, priority) in [
        ("crtos run --prio 42 chrt -p 0", "SCHED_FIFO", 42),
        ("crtos run --prio 17 --policy rr chrt -p 0", "SCHED_RR", 17),
        ("chrt -f 90 crtos run chrt -p 0", "SCHED_FIFO", 90),
    ] {
        let said = bench.ok(command)?;
        if !said.contains(policy) || !said.contains(&format!("priority: {priority}\n")) {
            bail!("{command}: {said}");
        }
    }
    Ok(())
}

fn one_cyclictest(bench: &mut Bench<'_>) -> Result<()> {
    let argv = ["/usr/bin/cyclictest", "-q", "-p", "90", "-i", "1000", "-l", "1000"];
    let output = crtos_run(bench, &argv, b"")?;
    let result = cyclictest::parse(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("status {}\n{}", output.status, said(&output)))?;
    same("status", output.status, 0)?;
    same("cycles", result.cycles, 1000)?;
    same("priority", result.priority, 90)
}

/// Linux can pin a program's pages: direct I/O reads into and writes from them without a copy.
fn direct_io(bench: &mut Bench<'_>) -> Result<()> {
    fs::write(bench.scratch.join("direct-in"), noise(1 << 20))?;
    let dd = ["/bin/dd", "if=direct-in", "of=direct-out", "bs=64k", "iflag=direct", "oflag=direct", "status=none"];
    let output = crtos_run(bench, &dd, b"")?;
    if output.status != 0 {
        bail!("status {}\n{}", output.status, said(&output));
    }
    same("the copy", fs::read(bench.scratch.join("direct-out"))? == noise(1 << 20), true)
}

fn fifty(bench: &mut Bench<'_>) -> Result<()> {
    bench.limit = Duration::from_secs(300);
    bench.ok("for i in $(seq 50); do crtos run /bin/true || exit 1; done").map(drop)
}

/// Whatever a program takes, it gives back.
fn five_hundred(bench: &mut Bench<'_>) -> Result<()> {
    bench.limit = Duration::from_secs(1800);
    bench.ok("crtos run /bin/true")?;
    let before = in_use(bench)?;
    bench.ok("for i in $(seq 500); do crtos run /bin/echo $i >/dev/null || exit 1; done")?;
    same("what is in use", in_use(bench)?, before)
}

fn tools(bench: &mut Bench<'_>) -> Result<()> {
    let list = bench.ok("crtos cell list")?;
    if !list.lines().any(|line| line.contains("srtos") && line.to_lowercase().contains("running")) {
        bail!("crtos cell list does not show the cell as running:\n{list}");
    }
    bench.ok("crtos cell stats srtos")?;
    let script =
        "crtos run /bin/sleep 100 & for i in $(seq 100); do crtos ps | grep -q sleep && break; sleep 0.1; done;
        crtos ps; kill $!; wait $!; true";
    let processes = bench.ok(script)?;
    let sleep = processes.lines().find(|line| line.ends_with("sleep"));
    // Its start alone takes some calls of Linux: the program and its libraries are read.
    let remote = sleep.and_then(|line| line.split_whitespace().nth(6)?.parse::<u32>().ok());
    if remote.is_none_or(|calls| calls == 0) {
        bail!("crtos ps does not show a running program and its calls:\n{processes}");
    }
    if bench.ok("crtos log")?.trim().is_empty() {
        bail!("crtos log shows nothing");
    }
    Ok(())
}

/// Linux cannot make a server crash unless the manifest says so.
fn crash_forbidden(bench: &mut Bench<'_>) -> Result<()> {
    let before = bench.ok("crtos crash list")?;
    let output = bench.sh("crtos server crash vfs-proxy --how null")?;
    same("status", output.status, 1)?;
    same("its cure", said(&output).contains("crash_on_order = true in [init]"), true)?;
    same("reports", bench.ok("crtos crash list")?, before)
}
