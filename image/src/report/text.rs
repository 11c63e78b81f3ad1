//! The report for people.

use std::fmt::Write;

use super::{Report, ServerReport};
use crate::units::Size;

fn micros(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v} µs"))
}

fn server(out: &mut String, server: &ServerReport) -> std::fmt::Result {
    writeln!(out, "\nserver {} (priority {})", server.name, server.priority)?;
    if let Some(digest) = &server.digest {
        writeln!(out, "  program    {digest}")?;
    }
    writeln!(
        out,
        "  memory     stack {}, heap {}, untyped {}, vault {}",
        Size(server.stack),
        Size(server.heap),
        Size(server.untyped),
        Size(server.vault)
    )?;
    if let Some(need) = &server.stack_need {
        writeln!(out, "  stack use  up to {} bytes: {}", need.bytes, need.chain.last().map_or("", String::as_str))?;
        writeln!(out, "             {} functions call through pointers: followed one deep", need.indirect)?;
        for (what, functions) in [("recursive, counted once", &need.recursive), ("not counted", &need.dynamic)] {
            if !functions.is_empty() {
                writeln!(out, "             {what}: {}", functions.join(", "))?;
            }
        }
    }
    writeln!(out, "  restart    {}, at priority {}", server.restart, server.rebuild_priority)?;
    for held in &server.holds {
        writeln!(out, "  {:<12} {:<16} {}: {}", held.kind, held.name, held.party, held.may)?;
    }
    writeln!(out, "  table")?;
    for cap in &server.capabilities {
        write!(out, "    {:>4}  {:<14} {:<6}", cap.slot, cap.object, cap.rights)?;
        match cap.object {
            "Untyped" | "SchedContext" => writeln!(out, " priorities up to {}", cap.badge)?,
            _ if cap.badge == 0 => writeln!(out)?,
            _ => writeln!(out, " badge {:#x}", cap.badge)?,
        }
    }
    Ok(())
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "system {} in cell {}", report.system, report.cell)?;
    if let Some(id) = &report.build_id {
        writeln!(out, "build {id}")?;
    }
    writeln!(out, "\nmemory")?;
    for region in &report.memory {
        writeln!(out, "  {:<16} {:<8} {:#012x}  {}", region.name, region.kind, region.guest, Size(region.size))?;
    }
    writeln!(out, "\ndevices")?;
    for device in &report.devices {
        writeln!(out, "  {:<16} {} {}, {} vectors", device.name, device.bdf, device.what, device.vectors)?;
    }
    if !report.forwarded.is_empty() {
        writeln!(out, "\napplications' calls that go to Linux\n  {}", report.forwarded.join(", "))?;
    }
    writeln!(out, "\nprocessor time")?;
    writeln!(
        out,
        "  {:<16} {:>8} {:>12} {:>12} {:>12} {:>14}",
        "server", "priority", "budget", "period", "deadline", "worst response"
    )?;
    let mut by_priority: Vec<_> = report.servers.iter().collect();
    by_priority.sort_by_key(|s| std::cmp::Reverse(s.priority));
    for s in by_priority {
        let given = s.budget_us > 0;
        writeln!(
            out,
            "  {:<16} {:>8} {:>12} {:>12} {:>12} {:>14}",
            s.name,
            s.priority,
            if given { micros(Some(s.budget_us)) } else { "unlimited".to_owned() },
            micros(given.then_some(s.period_us)),
            micros(s.deadline_us),
            micros(s.response_us)
        )?;
    }
    report.servers.iter().try_for_each(|s| server(out, s))
}

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, report);
    out
}
