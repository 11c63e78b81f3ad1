//! How the real-time realm is brought up and taken down, as a user would do it.

/// Where the product's files lie inside Linux.
pub const FILES: &str = "/usr/lib/crtos";

/// One step: what it is, and the command.
pub struct Step {
    /// For people.
    pub what: &'static str,
    /// Program and arguments.
    pub argv: &'static [&'static str],
}

const fn step(what: &'static str, argv: &'static [&'static str]) -> Step {
    Step { what, argv }
}

/// From plain Linux to a running cell.
pub const BRING_UP: [Step; 5] = [
    step(
        "load crtos.ko",
        &["/sbin/insmod", "/usr/lib/crtos/crtos.ko"],
    ),
    step("enable the hypervisor", &["crtos", "enable"]),
    step(
        "create the cell",
        &["crtos", "cell", "create", "/usr/lib/crtos/srtos.cell"],
    ),
    step(
        "load the image",
        &["crtos", "cell", "load", "srtos", "/usr/lib/crtos/srtos.bin"],
    ),
    step("start the cell", &["crtos", "cell", "start", "srtos"]),
];

/// And back.
pub const TAKE_DOWN: [Step; 4] = [
    step(
        "shut the cell down",
        &["crtos", "cell", "shutdown", "srtos"],
    ),
    step("destroy the cell", &["crtos", "cell", "destroy", "srtos"]),
    step("disable the hypervisor", &["crtos", "disable"]),
    step("unload crtos.ko", &["/sbin/rmmod", "crtos"]),
];

/// Steps as lines of a shell script.
pub fn script(steps: &[Step]) -> String {
    steps
        .iter()
        .map(|step| step.argv.join(" ") + "\n")
        .collect()
}
