//! Servers crash, each in each way: the verdict is exact, a new instance goes on, and nobody else notices.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::inmates::create;
use super::support::{crtos_run, in_use, program, same};
use crate::chaos;
use crate::inmate::Inmate;
use crate::suite::{Bench, Flavour, Suite, case, long, said};

/// Under the PREEMPT_RT kernel, in the image whose manifest lets servers be crashed.
pub const RT: Suite = Suite {
    name: "servers",
    wanted: Some(super::CRASH_MACHINE),
    cases: &[
        case("list", list),
        case("heartbeat", |bench| crimes(bench, "heartbeat")),
        case("vfs_proxy", |bench| crimes(bench, "vfs-proxy")),
        case("linux", |bench| crimes(bench, "linux")),
        case("personality", personality),
        case("personality_busy", personality_busy),
        case("spin", spin),
        case("show", show),
        case("orders", orders),
        case("given_up", given_up),
        case("appends", |bench| appends(bench, 2_000)),
        long("appends_10000", |bench| appends(bench, 10_000)),
        long("chaos", |bench| chaos::run(bench, 1, chaos::Until::Kills(1_000)).map(drop)),
        case("cell_restart", cell_restart),
        case("rebuild_waits", rebuild_waits),
        case("supervisor", supervisor),
        case("restarted", restarted),
        case("dmesg", |bench| bench.dmesg_is_clean()),
        // The last ones: nothing is left of Linux after them.
        case("linux_panics", linux_panics),
        case("linux_hangs", linux_hangs),
    ],
};

/// The ways that end at once, and what the report says.
const CRIMES: [(&str, &str); 9] = [
    ("null", "crashed: it wrote to a null pointer, 0x10, at "),
    ("wild", "crashed: it wrote to memory that is not there, 0x555500000000, at "),
    ("execdata", "crashed: it executed memory that it may not use so, 0x"),
    ("stack", "crashed: it wrote to memory that is not there, 0x11f"),
    ("ud2", "crashed: it executed an invalid instruction at "),
    ("port", "crashed: it did something that user mode may not do at 0x4"),
    ("leak", "memory allocation of "),
    (
        "garbage",
        "crashed: it did something that user mode may not do at 0xa5a5a5a5a5a5a5a5 (general protection, code 0x0)",
    ),
    ("panic", "asked to crash: panic"),
];

/// A line of `crtos server list`.
struct Row {
    state: String,
    generation: u64,
}

fn row(bench: &mut Bench<'_>, server: &str) -> Result<Row> {
    let list = bench.ok("crtos server list")?;
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(server));
    let words: Vec<&str> = line.with_context(|| format!("no {server} in:\n{list}"))?.split_whitespace().collect();
    Ok(Row {
        state: words.get(2).unwrap_or(&"").to_string(),
        generation: words.get(3).and_then(|word| word.parse().ok()).unwrap_or_default(),
    })
}

/// Does `what` and waits for the crash report that comes of it: its line.
fn report_of(bench: &mut Bench<'_>, what: &str) -> Result<String> {
    let script = format!(
        "before=$(crtos crash list | tail -n +2 | tail -1 | awk '{{ print $1 + 0 }}')
         [ -n \"$before\" ] || before=-1
         {what} || exit 1
         for i in $(seq 300); do
             crtos crash list | tail -n +2 | awk -v n=$before '$1 > n {{ print; found = 1 }} END {{ exit !found }}' && exit 0
             sleep 0.1
         done
         exit 98"
    );
    bench.ok(&script)
}

fn list(bench: &mut Bench<'_>) -> Result<()> {
    for server in ["vfs-proxy", "linux", "heartbeat"] {
        let row = row(bench, server)?;
        same(server, (row.state.as_str(), row.generation), ("running", 0))?;
    }
    same("init", row(bench, "init")?.state, "running".into())?;
    same("reports", bench.ok("crtos crash list")?.lines().count(), 1)
}

fn crimes(bench: &mut Bench<'_>, server: &str) -> Result<()> {
    let before = row(bench, server)?.generation;
    let ways: Vec<&str> = CRIMES.iter().map(|(way, _)| *way).collect();
    let script = format!(
        "n=$(crtos crash list | tail -n +2 | wc -l)
         for way in {}; do
             crtos server crash {server} --how $way || exit 97
             for i in $(seq 300); do crtos crash list | grep -q \"^ *$n \" && break; sleep 0.1; done
             crtos crash list | grep \"^ *$n \" || exit 98
             n=$((n + 1))
         done",
        ways.join(" ")
    );
    let lines = bench.ok(&script)?;
    same("reports", lines.lines().count(), CRIMES.len())?;
    for ((way, words), line) in CRIMES.iter().zip(lines.lines()) {
        let is_it = line.contains(&format!(" {server} ")) && line.contains(" fault ") && line.contains(" restarted ");
        if !is_it || !line.contains(words) {
            bail!("{server}, {way}: {line}");
        }
    }
    let after = row(bench, server)?;
    same(server, (after.state.as_str(), after.generation), ("running", before + CRIMES.len() as u64))?;
    let echo = crtos_run(bench, &["/bin/echo", "alive"], b"")?;
    same("a program after it", (echo.status, echo.stdout.as_slice()), (0, &b"alive\n"[..]))?;
    // What the heartbeat counts is in its vault.
    let log = bench.ok("crtos log | grep 'heartbeat: generation' | tail -1")?;
    if server == "heartbeat" && (!log.contains("vault Whole") || log.contains(" 0 beats")) {
        bail!("{log}");
    }
    Ok(())
}

/// The personality dies, and its programs do not notice: those that wait, and those that are in a call.
fn personality(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos run /bin/true")?;
    let before = in_use(bench)?;
    let script = r#"
        for way in kill 'crash --how null' 'crash --how leak'; do
            rm -f /tmp/pipe copy; mkfifo /tmp/pipe
            crtos run /bin/cat < /tmp/pipe > copy & cat=$!
            exec 3> /tmp/pipe
            crtos run /bin/sleep 2 & sleep=$!
            echo before >&3
            for i in $(seq 300); do [ -s copy ] && break; sleep 0.1; done
            crtos server ${way%% *} linux ${way#"${way%% *}"} || exit 97
            echo after >&3; exec 3>&-
            wait $cat; echo $?
            wait $sleep; echo $?
            cat copy
            crtos run /bin/echo $way || exit 96
        done
        crtos ps | tail -n +2"#;
    let said = bench.ok(script)?;
    let wanted = ["kill", "crash --how null", "crash --how leak"].map(|way| format!("0\n0\nbefore\nafter\n{way}\n"));
    same("statuses", said, wanted.concat())?;
    same("what is in use", in_use(bench)?, before)
}

/// The personality is killed over and over while programs make all kinds of calls.
fn personality_busy(bench: &mut Bench<'_>) -> Result<()> {
    bench.limit = Duration::from_secs(300);
    let program = program(bench, "abi")?;
    bench.ok("crtos run /bin/true")?;
    let (before, born) = (in_use(bench)?, row(bench, "linux")?.generation);
    let script = format!(
        r#"
        rm -f statuses; touch going
        (while [ -e going ]; do crtos run {program} > abi.log 2>&1; s=$?; echo abi $s >> statuses; [ $s = 0 ] || cp abi.log abi.failed; done) &
        (while [ -e going ]; do crtos run /bin/true; echo true $? >> statuses; done) &
        (while [ -e going ]; do crtos run /usr/bin/cyclictest -q -t 2 -p 90 -i 1000 -l 500 > /dev/null; echo cyclictest $? >> statuses; done) &
        for kill in $(seq {KILLS}); do
            crtos server kill linux || exit 97
            sleep 0.$((RANDOM % 3))$((RANDOM % 10))
        done
        rm going; wait
        [ ! -e abi.failed ] || cat abi.failed
        sort statuses | uniq -c"#
    );
    const KILLS: u64 = 40;
    let said = bench.ok(&script)?;
    let wrong: Vec<&str> = said.lines().filter(|line| !line.ends_with(" 0")).collect();
    if !wrong.is_empty() || said.lines().count() != 3 {
        bail!("programs that ended, by status:\n{said}");
    }
    same("generation", row(bench, "linux")?.generation, born + KILLS)?;
    let torn = bench.ok("crtos log | grep -c 'going on with .* a turn was undone' || true")?;
    if torn.trim() == "0" {
        bail!("no kill hit a turn");
    }
    same("what is in use", in_use(bench)?, before)
}

/// Nobody below runs while it spins, until its supervisor ends that.
fn spin(bench: &mut Bench<'_>) -> Result<()> {
    for server in ["heartbeat", "vfs-proxy", "linux"] {
        let line = report_of(bench, &format!("crtos server crash {server} --how spin"))?;
        if !line.contains(" spin ") || !line.contains("ms without finishing a turn") {
            bail!("{server}: {line}");
        }
        same("a program after it", crtos_run(bench, &["/bin/true"], b"")?.status, 0)?;
    }
    Ok(())
}

fn show(bench: &mut Bench<'_>) -> Result<()> {
    let line = report_of(bench, "crtos server crash heartbeat --how null")?;
    let number = line.split_whitespace().next().with_context(|| line.clone())?;
    let report = bench.ok(&format!("crtos crash show {number}"))?;
    for words in ["server heartbeat, generation ", "address 0x10", "rt::crash::by+", "rt::serve::serve", "rsp   "] {
        if !report.contains(words) {
            bail!("no \"{words}\" in\n{report}");
        }
    }
    // What it is a report of: the same digests as the log shows.
    let log = bench.ok("crtos log")?;
    let digests =
        |line: &str| line.split_whitespace().filter(|word| word.len() == 16).map(str::to_owned).collect::<Vec<_>>();
    for (known, fields) in
        [("init: image ", &["build     ", "manifest  "][..]), (" is server heartbeat", &["program   "])]
    {
        let line =
            log.lines().find(|line| line.contains(known)).with_context(|| format!("no \"{known}\" in\n{log}"))?;
        let found = digests(line);
        same(known, found.len(), fields.len())?;
        for (field, digest) in fields.iter().zip(found) {
            if !report.contains(&format!("{field}{digest}")) {
                bail!("no \"{field}{digest}\" in\n{report}");
            }
        }
    }
    let missing = bench.sh("crtos crash show 4000000000")?;
    same("a report that is not there", (missing.status, said(&missing).contains("there is no report")), (1, true))
}

fn orders(bench: &mut Bench<'_>) -> Result<()> {
    let line = report_of(bench, "crtos server kill heartbeat")?;
    same("kill", line.contains(" order ") && line.contains("was killed on order"), true)?;
    let line = report_of(bench, "crtos server restart vfs-proxy")?;
    same("restart", line.contains("was replaced on order"), true)?;
    let unknown = bench.sh("crtos server kill nobody")?;
    same(
        "nobody",
        (unknown.status, said(&unknown).contains("there are vfs-proxy, linux, heartbeat, mortal")),
        (1, true),
    )?;
    same("an unknown way", bench.sh("crtos server crash heartbeat --how well")?.status, 2)
}

/// A server that its policy leaves dead stays so until it is started again on order; what it keeps is still there then.
fn given_up(bench: &mut Bench<'_>) -> Result<()> {
    let before = row(bench, "mortal")?;
    for round in 1..=2 {
        bench.ok("crtos server kill mortal")?;
        same("after its death", row(bench, "mortal")?.state, "dead".into())?;
        let again = bench.sh("crtos server kill mortal")?;
        same("once more", (again.status, said(&again).contains("crtos server restart")), (1, true))?;
        bench.ok("crtos server restart mortal")?;
        let after = row(bench, "mortal")?;
        same("started again", (after.state.as_str(), after.generation), ("running", before.generation + round))?;
    }
    same("its vault", bench.ok("crtos log | grep 'mortal: generation' | tail -1")?.contains("vault Whole"), true)
}

/// The forwarder is killed over and over while a program appends: every line is there once, and the program saw no error.
fn appends(bench: &mut Bench<'_>, lines: u32) -> Result<()> {
    bench.limit = Duration::from_secs(1200);
    let before = row(bench, "vfs-proxy")?.generation;
    let script = format!(
        r#"
        rm -f appended
        crtos run /bin/sh -c 'i=0; while [ $i -lt {lines} ]; do echo line $i || exit 9; i=$((i+1)); done' >> appended 2> errors &
        program=$!
        kills=0
        while kill -0 $program 2>/dev/null; do
            crtos server kill vfs-proxy || exit 97
            kills=$((kills + 1))
            sleep 0.$((RANDOM % 4))
        done
        wait $program || exit 96
        cat errors >&2
        [ ! -s errors ] || exit 95
        seq -f 'line %.0f' 0 {} | cmp - appended || exit 94
        echo $kills"#,
        lines - 1
    );
    let kills: u64 = bench.ok(&script)?.trim().parse()?;
    if kills < 10 {
        bail!("only {kills} kills while the program ran");
    }
    same("generation", row(bench, "vfs-proxy")?.generation, before + kills)
}

/// Reports outlive the cell.
fn cell_restart(bench: &mut Bench<'_>) -> Result<()> {
    let before = bench.ok("crtos crash list | tail -1")?;
    bench.ok("crtos cell shutdown && crtos cell load && crtos cell start")?;
    same("the last report", bench.ok("crtos crash list | tail -1")?, before)?;
    same("generation", row(bench, "vfs-proxy")?.generation, 0)?;
    same("a program", crtos_run(bench, &["/bin/true"], b"")?.status, 0)
}

/// Without its supervisor the system goes on, and everybody is told.
fn supervisor(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos server crash init --how null")?;
    same("init", row(bench, "init")?.state, "silent".into())?;
    same("a program", crtos_run(bench, &["/bin/true"], b"")?.status, 0)?;
    let log = bench.ok("crtos log")?;
    same("the console", log.contains("kernel: the first process is dead"), true)?;
    let list = bench.ok("crtos cell list")?;
    if !list.lines().any(|line| line.contains("srtos") && line.contains("failed")) {
        bail!("crtos cell list does not show the cell as failed:\n{list}");
    }
    let order = bench.sh("crtos server kill heartbeat")?;
    same("an order", (order.status, said(&order).contains("the supervisor does not answer")), (1, true))?;
    cell_restart(bench)
}

/// A cell whose first process is dead is started anew if the manifest wants that, as often as it says: no command is needed. What ran ends.
fn restarted(bench: &mut Bench<'_>) -> Result<()> {
    let edit = |what: &str| format!("sed -i '{what}' /usr/lib/crtos/manifest.toml");
    // It is Linux's part, so the image is the same.
    bench.ok(&edit("s/^cpus = 1$/cpus = 1\\nrestart = { times = 2, window_ms = 3600000 }/"))?;
    cell_restart(bench)?;
    // The end of another cell does not wait for that of the watcher, which would take its whole patience each time.
    create(bench, &Inmate::new("other", &[2], (0x6540_0000, 4 << 20)))?;
    bench.ok(
        "timeout 60 sh -c 'crtos cell load other /bin/true && crtos cell shutdown other && crtos cell destroy other'",
    )?;
    let reports = bench.ok("crtos crash list | tail -1")?;
    for (round, way) in ["null", "spin"].iter().enumerate() {
        let said = bench.sh(&format!(
            "crtos run /bin/sleep 1000 & program=$!
             for i in $(seq 100); do crtos ps | grep -q sleep && break; sleep 0.1; done
             crtos server crash init --how {way} || exit 99
             wait $program; echo $?
             for i in $(seq 600); do [ $(dmesg | grep -c 'runs again') = {} ] && exit; sleep 0.1; done
             dmesg | tail; exit 98",
            round + 1
        ))?;
        let wanted = (0, "125\n".into(), "crtos: the real-time realm went away\n".into());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        same(way, (said.status, text(&said.stdout), text(&said.stderr)), wanted)?;
        same("a program in the new life", crtos_run(bench, &["/bin/echo", "alive"], b"")?.stdout, b"alive\n".into())?;
        same("init", row(bench, "init")?.state, "running".into())?;
        same("generation", row(bench, "vfs-proxy")?.generation, 0)?;
        same("the last report", bench.ok("crtos crash list | tail -1")?, reports.clone())?;
    }
    // Now it is enough.
    bench.ok("crtos server crash init --how panic
         for i in $(seq 100); do dmesg | grep 'it has failed too often' && exit 0; sleep 0.1; done; exit 1")?;
    same("the cell", bench.ok("crtos cell list")?.lines().any(|line| line.contains("failed")), true)?;
    bench.ok(&edit("/^restart = { times = 2, window_ms = 3600000 }$/d"))?;
    cell_restart(bench)
}

/// Who is rebuilt below the real-time programs does not wait for ever: after a while it is rebuilt at its own priority.
fn rebuild_waits(bench: &mut Bench<'_>) -> Result<()> {
    let before = row(bench, "heartbeat")?.generation;
    let list = bench.ok("crtos run --prio 50 /bin/sh -c 'while :; do :; done' & program=$!
         for i in $(seq 100); do crtos ps | grep -q ' sh$' && break; sleep 0.1; done
         crtos server kill heartbeat || exit 97
         kill -0 $program || exit 96
         crtos server list
         kill $program; wait $program; [ $? = 143 ]")?;
    let line = list.lines().find(|line| line.starts_with("heartbeat ")).context("no heartbeat")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, state, generation, _, us] = words[..] else { bail!("{line}") };
    same(line, (state, generation.parse()?), ("running", before + 1))?;
    if us.parse::<u64>()? < 50_000 {
        bail!("it did not wait: {line}");
    }
    Ok(())
}

/// Linux panics.
fn linux_panics(bench: &mut Bench<'_>) -> Result<()> {
    // It stays as it is then, instead of starting the machine again.
    bench.ok("echo 0 > /proc/sys/kernel/panic")?;
    without_linux(bench, "echo c > /proc/sysrq-trigger", "Kernel panic")
}

/// All processors of Linux hang with interrupts off.
fn linux_hangs(bench: &mut Bench<'_>) -> Result<()> {
    let module = bench.builder.module("hang", Flavour::Rt)?;
    without_linux(bench, &format!("insmod {}", module.display()), "hang: every processor stops")
}

/// The command is the end of Linux, that the console shows by `sign`: the heartbeat goes on, the console says that Linux is silent, and who
/// waits for it gets an error.
fn without_linux(bench: &mut Bench<'_>, command: &str, sign: &str) -> Result<()> {
    bench.ok("setsid /bin/bash -c 'sleep 1000 | crtos run /bin/cat' </dev/null >/dev/null 2>&1 &
         for i in $(seq 100); do crtos ps | grep -q cat && break; sleep 0.1; done")?;
    // What the command prints nobody would hear.
    bench.ok(&format!("setsid /bin/bash -c 'sleep 1; {command}' </dev/null >/dev/null 2>&1 & true"))?;
    let logs = bench.vm()?.logs().to_owned();
    let read =
        |name: &str| -> Result<String> { Ok(String::from_utf8_lossy(&std::fs::read(logs.join(name))?).into_owned()) };
    let beat = || -> Result<u64> {
        let log = read("hypervisor.log")?;
        // "beat N", or "beat N, M missed" on a machine that is short of time.
        let number = |line: &str| line.split_once("heartbeat: beat ")?.1.split(',').next()?.trim().parse().ok();
        let last = log.lines().rev().find_map(number);
        Ok(last.unwrap_or(0))
    };
    until(|| Ok(read("linux.log")?.contains(sign)))?;
    let then = beat()?;
    until(|| Ok(beat()? >= then + 60))?;
    until(|| Ok(read("hypervisor.log")?.contains("vfs-proxy: Linux is silent: no sign of life for ")))?;
    same("calls that ended", read("hypervisor.log")?.contains("; 1 calls ended"), true)?;
    bench.reboot();
    Ok(())
}

/// Waits for something to become true; not for ever.
pub fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so()? {
        if Instant::now() > end {
            bail!("it has not happened within two minutes");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
