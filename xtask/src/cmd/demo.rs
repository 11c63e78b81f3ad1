//! `./x demo`: the main job from end to end, every claim checked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::cyclictest::{self, Latency};
use tests::realm::{BRING_UP, TAKE_DOWN};
use tests::suite::{complaints, environment};
use tests::vm::{Output, Vm};
use tests::wire;

use crate::cli;
use crate::guest::{self, Kind};
use crate::tree::Tree;
use crate::{build, setup};

const GREETING: &str = "Hello World from sRTOS!";
const CYCLICTEST: [&str; 7] = ["/usr/bin/cyclictest", "-q", "-p", "90", "-i", "1000", "-l"];
const CYCLES: &str = "1000";
const LIMIT: Duration = Duration::from_secs(300);

/// Tells the story; an error if any of it does not hold.
pub fn run(tree: &Tree, options: cli::Demo) -> Result<u8> {
    let start = Instant::now();
    let show = |text: &str| println!("[{:>4} s] {text}", start.elapsed().as_secs());

    show("setting this machine up, and building");
    setup::programs()?;
    let kind = Kind {
        name: "demo".into(),
        flavour: options.kernel.into(),
        manifest: Some(build::manifest(tree, "default")?),
        reserved: true,
    };
    let machine = guest::machine(tree, &kind)?;

    show(&format!("booting Debian's kernel {} in QEMU, unmodified", machine.kernel.release));
    let mut vm = guest::boot(&machine)?;
    let version = text(&mut vm, &["uname", "-srv"])?;
    show(&format!("up: {}", version.trim()));
    let before = linux(&mut vm)?;

    for step in &BRING_UP {
        show(&command(step.argv));
        guest::take(&mut vm, step)?;
    }
    for line in text(&mut vm, &["crtos", "cell", "list"])?.lines() {
        println!("         {line}");
    }

    show(&format!("crtos run /bin/echo \"{GREETING}\""));
    let said = text(&mut vm, &["crtos", "run", "/bin/echo", GREETING])?;
    print!("         {said}");
    if said != format!("{GREETING}\n") {
        bail!("that is not what echo was asked to say");
    }

    let mut argv = CYCLICTEST.to_vec();
    argv.push(CYCLES);
    show(&format!("crtos run {}: in the real-time realm", command(&argv)));
    let ours = latency(&mut vm, &[&["crtos", "run"][..], &argv].concat())?;
    show(&format!("{}: in Linux", command(&argv)));
    let native = latency(&mut vm, &argv)?;
    table(&ours, &native);

    for step in &TAKE_DOWN {
        show(&command(step.argv));
        guest::take(&mut vm, step)?;
    }
    show("Linux is still well?");
    let after = linux(&mut vm)?;
    if after != before {
        bail!("Linux is not as it was before:\n{before}\nnow:\n{after}");
    }
    let log = text(&mut vm, &["dmesg"])?;
    let bad = complaints(&log);
    if !bad.is_empty() {
        bail!("its kernel complains:\n{}", bad.join("\n"));
    }
    show("it is: the same CPUs and memory, programs run, nothing in its log");
    guest::power_off(vm)?;
    show("done, and all of it held");
    Ok(0)
}

/// What must be the same before and after: CPUs, memory, and that programs run.
fn linux(vm: &mut Vm) -> Result<String> {
    let script = "nproc; cat /sys/devices/system/cpu/online; grep -v -i crtos /proc/iomem | grep -i 'system ram';
                  seq 1000 | sort -rn | sha256sum; lsmod | grep -c ^crtos; true";
    text(vm, &["/bin/bash", "-c", script])
}

fn latency(vm: &mut Vm, argv: &[&str]) -> Result<Latency> {
    let said = text(vm, argv)?;
    let result = cyclictest::parse(&said).with_context(|| said.clone())?;
    if result.cycles.to_string() != CYCLES || result.priority != 90 {
        bail!("cyclictest did not do what it was asked to:\n{said}");
    }
    Ok(result)
}

fn table(ours: &Latency, native: &Latency) {
    println!("         wake-up latency in µs (of an emulated machine)   min     avg      max");
    for (name, result) in [("real-time realm", ours), ("Linux", native)] {
        println!("         {name:<47} {:>5} {:>7} {:>8}", result.min, result.average, result.max);
    }
}

/// Runs a command that must succeed; its output.
fn text(vm: &mut Vm, argv: &[&str]) -> Result<String> {
    let request = wire::Command {
        argv: argv.iter().map(Into::into).collect(),
        env: environment(),
        cwd: "/".into(),
        terminal: None,
    };
    let Output { status, stdout, stderr } = vm.capture(&request, b"", LIMIT)?;
    if status != 0 {
        bail!(
            "{}: status {status}: {}; logs in {}",
            command(argv),
            String::from_utf8_lossy(&[stdout, stderr].concat()).trim(),
            vm.logs().display()
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn command(argv: &[&str]) -> String {
    argv.join(" ")
}
