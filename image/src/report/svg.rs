//! The report as a drawing: memory on the left, servers by priority in the middle, devices on the right.

use std::fmt::Write;

use super::{Report, ServerReport};
use crate::units::Size;

const WIDTH: usize = 980;
const TOP: usize = 70;
const STEP: usize = 46;
const BOX: usize = 34;
const MEMORY: (usize, usize) = (20, 210);
const SERVERS: (usize, usize) = (420, 180);
const DEVICES: (usize, usize) = (770, 190);

/// Names are checked to hold nothing that XML minds; titles of systems of other tools need not be.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Column {
    x: usize,
    width: usize,
    step: usize,
}

impl Column {
    fn y(&self, index: usize) -> usize {
        TOP + index * self.step
    }

    fn middle(&self, index: usize) -> usize {
        self.y(index) + BOX / 2
    }

    fn put(&self, out: &mut String, index: usize, class: &str, title: &str, below: &str) -> std::fmt::Result {
        let (x, y) = (self.x, self.y(index));
        writeln!(out, r#"<rect class="{class}" x="{x}" y="{y}" width="{}" height="{BOX}" rx="4"/>"#, self.width)?;
        writeln!(out, r#"<text x="{}" y="{}">{}</text>"#, x + 8, y + 14, escape(title))?;
        writeln!(out, r#"<text class="small" x="{}" y="{}">{}</text>"#, x + 8, y + 28, escape(below))
    }
}

fn line(out: &mut String, class: &str, from: (usize, usize), to: (usize, usize), title: &str) -> std::fmt::Result {
    let ((x1, y1), (x2, y2)) = (from, to);
    let middle = (x1 + x2) / 2;
    writeln!(
        out,
        r#"<path class="{class}" d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"><title>{}</title></path>"#,
        escape(title)
    )
}

/// An arrow from a server to another, bowed to one side so that it passes the boxes between.
fn arrow(out: &mut String, class: &str, x: usize, from: usize, to: usize, bow: isize, title: &str) -> std::fmt::Result {
    let side = x.saturating_add_signed(bow * (40 + from.abs_diff(to) as isize / 4));
    writeln!(
        out,
        r#"<path class="{class}" marker-end="url(#tip)" d="M{x} {from} C{side} {from} {side} {to} {x} {to}"><title>{}</title></path>"#,
        escape(title)
    )
}

fn draw(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut servers: Vec<&ServerReport> = report.servers.iter().collect();
    servers.sort_by_key(|s| std::cmp::Reverse(s.priority));
    let rows = report.memory.len().max(report.devices.len()).max(1);
    let server_step = (rows * STEP / servers.len().max(1)).max(STEP + 14);
    let memory = Column { x: MEMORY.0, width: MEMORY.1, step: STEP };
    let middle = Column { x: SERVERS.0, width: SERVERS.1, step: server_step };
    let devices = Column { x: DEVICES.0, width: DEVICES.1, step: STEP };
    let height = TOP + (rows * STEP).max(servers.len() * server_step) + 40;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">"#
    )?;
    out.push_str(concat!(
        "<style>rect{stroke:#445;fill:#eef}rect.shared{fill:#fde9c9}rect.device{fill:#f8d6d6}rect.private{fill:#e3f2dd}",
        "rect.server{fill:#dbe7fb}text.small{font-size:10px;fill:#556}path{fill:none;stroke-width:1.4}",
        "path.read{stroke:#8a9}path.write{stroke:#c73}path.call{stroke:#235;stroke-width:2}path.signal{stroke:#739;stroke-dasharray:5 3}",
        "path.interrupt{stroke:#b22;stroke-dasharray:2 3}</style>\n",
        "<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">",
        "<path d=\"M0 0 L8 4 L0 8 z\" style=\"fill:#235;stroke:none\"/></marker></defs>\n",
    ));
    writeln!(
        out,
        r#"<text x="20" y="24" font-size="16">{} (cell {})</text>"#,
        escape(&report.system),
        escape(&report.cell)
    )?;
    for (x, title) in [(MEMORY.0, "memory"), (SERVERS.0, "servers, by priority"), (DEVICES.0, "devices")] {
        writeln!(out, r#"<text class="small" x="{x}" y="{}">{title}</text>"#, TOP - 12)?;
    }
    let right = (SERVERS.0 + SERVERS.1, SERVERS.0);
    let row = |name: &str| servers.iter().position(|s| s.name == name);
    for (index, server) in servers.iter().enumerate() {
        let y = middle.middle(index);
        for held in &server.holds {
            let title = format!("{}: {} {}: {}", server.name, held.kind, held.party, held.may);
            match held.kind {
                "memory" => {
                    if let Some(at) = report.memory.iter().position(|r| r.name == held.party) {
                        let class = if held.may.contains("write") { "write" } else { "read" };
                        line(out, class, (MEMORY.0 + MEMORY.1, memory.middle(at)), (right.1, y), &title)?;
                    }
                }
                "interrupt" => {
                    if let Some(at) = report.devices.iter().position(|d| d.name == held.party) {
                        line(out, "interrupt", (right.0, y), (DEVICES.0, devices.middle(at)), &title)?;
                    }
                }
                "call" | "signal" => {
                    if let Some(to) = row(&held.party) {
                        let bow = if held.kind == "call" { 1 } else { -1 };
                        let x = if bow > 0 { right.0 } else { right.1 };
                        arrow(out, held.kind, x, y, middle.middle(to), bow, &title)?;
                    }
                }
                _ => {}
            }
        }
    }
    for (index, region) in report.memory.iter().enumerate() {
        let below = format!("{} {:#x}, {}", region.kind, region.guest, Size(region.size));
        memory.put(out, index, region.kind, &region.name, &below)?;
    }
    for (index, server) in servers.iter().enumerate() {
        let time = if server.budget_us == 0 {
            "no budget".to_owned()
        } else {
            format!("{} of {} µs", server.budget_us, server.period_us)
        };
        middle.put(out, index, "server", &server.name, &format!("priority {}, {time}", server.priority))?;
    }
    for (index, device) in report.devices.iter().enumerate() {
        devices.put(out, index, "device", &device.name, &format!("{} {}", device.bdf, device.what))?;
    }
    writeln!(out, "</svg>")
}

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = draw(&mut out, report);
    out
}
