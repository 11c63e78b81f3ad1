//! `./x picture`: the timeline of one kill of `vfs-proxy`, while a program writes and another wakes up each millisecond.

use std::fmt::Write;
use std::fs;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::suite::{Bench, Builder};
use tests::suites;

use crate::cli;
use crate::laboratory::Laboratory;
use crate::setup;
use crate::tree::{Tree, say};

/// Lines that the one writes, and beats of the other.
const LINES: usize = 6000;
const BEATS: usize = 6000;

/// What happened, in ticks of the real-time side's time-stamp counter.
struct Run {
    died: u64,
    started: u64,
    /// Ticks of a millisecond.
    khz: u64,
    /// Begin and end of each call.
    calls: Vec<(u64, u64)>,
    beats: Vec<u64>,
}

/// Boots the machine, kills, draws.
pub fn run(tree: &Tree, options: cli::Picture) -> Result<u8> {
    setup::programs()?;
    let file = options.file.map_or(tree.root.join("docs/kill.svg"), |file| tree.caller.join(file));
    let laboratory = Laboratory { tree, jailhouse: None };
    let program = laboratory.program("timeline")?;
    let mut bench = Bench::new(&laboratory, "picture", Some(suites::COUNTING_MACHINE))?;
    let run = record(&mut bench, &program.display().to_string())?;
    fs::write(&file, draw(&run)?).with_context(|| file.display().to_string())?;
    say(&format!("the drawing is in {}", file.display()));
    Ok(0)
}

fn record(bench: &mut Bench<'_>, program: &str) -> Result<Run> {
    bench.limit = Duration::from_secs(120);
    bench.ok(&format!(
        "crtos run --prio 90 {program} beat {BEATS} > beats & beats=$!
         for i in $(seq 100); do [ $(crtos ps | grep -c timeline) = 1 ] && break; sleep 0.1; done
         crtos run --prio 50 {program} write {LINES} > lines 2> calls & calls=$!
         for i in $(seq 600); do [ $(wc -l < lines) -ge {} ] && break; sleep 0.1; done
         crtos server kill vfs-proxy && {program} board vfs-proxy > board || exit 97
         wait $beats && wait $calls || exit 96
         seq -f 'line %.0f' 0 {} | cmp - lines",
        LINES / 20,
        LINES - 1
    ))?;
    let read = |name: &str| fs::read_to_string(bench.scratch.join(name)).with_context(|| name.to_owned());
    let [died, started, khz] = numbers(&read("board")?)?;
    let calls = read("calls")?.lines().map(|line| numbers(line).map(|[from, to]| (from, to))).collect::<Result<_>>()?;
    let beats = read("beats")?.lines().map(|line| Ok(u64::from_str(line)?)).collect::<Result<_>>()?;
    Ok(Run { died, started, khz, calls, beats })
}

fn numbers<const N: usize>(line: &str) -> Result<[u64; N]> {
    let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    numbers.try_into().ok().with_context(|| format!("{N} numbers: {line}"))
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 20.0;
/// Tops of the rows, and their height.
const ROWS: [f64; 3] = [56.0, 116.0, 176.0];
const HIGH: f64 = 34.0;
const AXIS: f64 = 226.0;

/// The kill in the middle, as much time before and after as it took, and three milliseconds at least.
fn draw(run: &Run) -> Result<String> {
    let Run { died, started, khz, .. } = *run;
    ensure!(khz > 0 && died < started, "it was not killed: died at {died}, started at {started}");
    let ms = |ticks: u64| (ticks as f64 - died as f64) / khz as f64;
    let down = ms(started);
    // The one that waited for it: not the one that it had just answered.
    let held = run.calls.iter().filter(|(from, to)| *from < started && *to > died).max_by_key(|(from, to)| to - from);
    let Some(&(_, last)) = held else { bail!("no call was under way while it was dead") };
    let whole = ms(last.max(started));
    let margin = (0.6 * whole).max(3.0);
    let (first, end) = (-margin, whole + margin);
    let x = |time: f64| LEFT + (time.clamp(first, end) - first) / (end - first) * (WIDTH - LEFT - RIGHT);
    let is_shown = |from: u64, to: u64| ms(to) > first && ms(from) < end;
    let beats: Vec<u64> = run.beats.iter().copied().filter(|beat| is_shown(*beat, *beat)).collect();
    ensure!(run.beats.first().is_some_and(|beat| ms(*beat) < first), "the beats began too late");
    ensure!(run.beats.last().is_some_and(|beat| ms(*beat) > end), "the beats ended too early");
    let longest = beats.windows(2).map(|pair| ms(pair[1]) - ms(pair[0])).fold(0.0, f64::max);

    let mut out = String::new();
    let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 290" font-family="sans-serif" font-size="13" fill="#223">"##;
    writeln!(out, r##"{svg}<rect width="960" height="290" fill="#fff"/>"##)?;
    writeln!(
        out,
        r#"<text x="20" y="28" font-size="16">One kill of vfs-proxy, the server that all forwarded calls go through</text>"#
    )?;
    let mut bar = |from: f64, to: f64, row: usize, colour: &str, title: &str| {
        let (left, width) = (x(from), (x(to) - x(from)).max(0.8));
        let top = ROWS[row];
        writeln!(
            out,
            r##"<rect x="{left:.1}" y="{top}" width="{width:.1}" height="{HIGH}" fill="{colour}" stroke="#fff" stroke-width="0.6"><title>{title}</title></rect>"##
        )
    };
    bar(first, 0.0, 0, "#9cc79c", "the old instance")?;
    bar(0.0, down, 0, "#d9534f", &format!("nobody for {down:.2} ms"))?;
    bar(down, end, 0, "#9cc79c", "the new instance")?;
    for &(from, to) in run.calls.iter().filter(|(from, to)| is_shown(*from, *to)) {
        let colour = if (from, to) == held.copied().unwrap_or_default() { "#e0912f" } else { "#7aa6d8" };
        bar(ms(from), ms(to), 1, colour, &format!("{:.2} ms", ms(to) - ms(from)))?;
    }
    for &beat in &beats {
        let (at, top) = (x(ms(beat)), ROWS[2]);
        writeln!(out, r##"<path d="M{at:.1} {top}v{HIGH}" stroke="#445" stroke-width="2"/>"##)?;
    }
    let label = |out: &mut String, row: usize, title: &str, below: &str| {
        let top = ROWS[row];
        writeln!(out, r#"<text x="20" y="{}">{title}</text>"#, top + 14.0)?;
        writeln!(out, r##"<text x="20" y="{}" font-size="11" fill="#667">{below}</text>"##, top + 29.0)
    };
    label(&mut out, 0, "vfs-proxy", &format!("dead for {down:.2} ms"))?;
    label(
        &mut out,
        1,
        "a program's write()",
        &format!("one took {:.2} ms, none failed", held.map_or(0.0, |(from, to)| ms(*to) - ms(*from))),
    )?;
    label(&mut out, 2, "wakes each millisecond", &format!("at most {longest:.2} ms apart"))?;
    for time in [0.0, down] {
        let at = x(time);
        writeln!(out, r##"<path d="M{at:.1} 48V{AXIS}" stroke="#d9534f" stroke-dasharray="3 3"/>"##)?;
    }
    writeln!(out, r##"<path d="M{LEFT} {AXIS}H{}" stroke="#889"/>"##, WIDTH - RIGHT)?;
    let step =
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0].into_iter().find(|step| (end - first) / step < 16.0).unwrap_or(200.0);
    let mut time = (first / step).ceil() * step;
    while time <= end {
        let at = x(time);
        writeln!(out, r##"<path d="M{at:.1} {AXIS}v5" stroke="#889"/>"##)?;
        writeln!(out, r#"<text x="{at:.1}" y="{}" font-size="11" text-anchor="middle">{time}</text>"#, AXIS + 18.0)?;
        time += step;
    }
    writeln!(out, r#"<text x="{LEFT}" y="{}" font-size="11">milliseconds since its death</text>"#, AXIS + 34.0)?;
    writeln!(
        out,
        r##"<text x="20" y="280" font-size="11" fill="#667">A real run of ./x picture, emulated at a thousand million instructions a second, both realms in turns. All {} lines are in the file, each once.</text>"##,
        run.calls.len()
    )?;
    out.push_str("</svg>\n");
    Ok(out)
}

#[cfg(test)]
mod unit {
    use super::{Run, draw};

    #[test]
    fn what_happened_is_drawn() {
        let calls = vec![(80_000, 90_000), (99_000, 103_500), (103_600, 104_000)];
        let beats: Vec<u64> = (0..200).map(|beat| beat * 1000).collect();
        let run = Run { died: 100_000, started: 102_500, khz: 1000, calls, beats };
        let svg = draw(&run).unwrap();
        assert!(
            svg.contains("dead for 2.50 ms") && svg.contains("one took 4.50 ms") && svg.contains("at most 1.00 ms")
        );
        assert!(draw(&Run { calls: vec![(1, 2)], ..run }).is_err());
    }
}
