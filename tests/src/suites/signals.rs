//! A program that is killed from Linux is gone on both sides.

use anyhow::{Result, bail};

use super::support::{in_use, same};
use crate::suite::{Bench, State, Suite, Wanted, case};

/// Under the PREEMPT_RT kernel.
pub const RT: Suite = Suite {
    name: "signals",
    wanted: Some(Wanted::new(State::Running)),
    cases: &[
        case("interrupt", |bench| ends_by(bench, "INT", 2)),
        case("terminate", |bench| ends_by(bench, "TERM", 15)),
        case("kill", |bench| ends_by(bench, "KILL", 9)),
        case("own", own),
        case("broken_pipe", broken_pipe),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

fn ends_by(bench: &mut Bench<'_>, name: &str, number: i32) -> Result<()> {
    bench.ok("crtos run /bin/true")?;
    let before = in_use(bench)?;
    let script = format!(
        "set -m # without job control, a shell's background commands ignore SIGINT
         crtos run /bin/sleep 1000 & pid=$!
         for i in $(seq 100); do crtos ps | grep -q sleep && break; sleep 0.1; done
         crtos ps | grep sleep || exit 99
         kill -{name} $pid; wait $pid; status=$?
         for i in $(seq 100); do crtos ps | grep -q sleep || exit $status; sleep 0.1; done
         exit 98"
    );
    match bench.sh(&script)?.status {
        99 => bail!("the program is not to be seen in crtos ps"),
        98 => bail!("the program is still there after 10 s"),
        status => same("status", status, 128 + number),
    }?;
    bench.ok("crtos run /bin/true")?;
    same("what is in use", in_use(bench)?, before)
}

fn own(bench: &mut Bench<'_>) -> Result<()> {
    let output = bench.sh("crtos run /bin/sh -c 'kill -TERM $$'")?;
    same("killed by itself", output.status, 128 + 15)?;
    let script = "crtos run /bin/sh -c 'trap \"echo caught; exit 5\" USR1; kill -USR1 $$; exit 6'";
    let output = bench.sh(script)?;
    same("status of the handler", output.status, 5)?;
    same("output of the handler", output.stdout.as_slice(), b"caught\n")
}

fn broken_pipe(bench: &mut Bench<'_>) -> Result<()> {
    let script = "crtos run /usr/bin/yes | head -1; echo ${PIPESTATUS[0]}";
    same("yes", bench.ok(script)?, "y\n141\n".into())
}
