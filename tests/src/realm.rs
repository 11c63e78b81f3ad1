//! How the real-time realm is brought up and taken down, as a user would do it.

/// Where the product's files lie inside Linux.
pub const FILES: &str = "/usr/lib/crtos";

/// What `init` says on the console when all servers are ready.
pub const READY: &str = "init: ready";

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
    step("load crtos.ko", &["/sbin/insmod", "/usr/lib/crtos/crtos.ko"]),
    step("enable the hypervisor", &["crtos", "enable"]),
    step("create the cell", &["crtos", "cell", "create"]),
    step("load the image", &["crtos", "cell", "load"]),
    step("start the cell", &["crtos", "cell", "start"]),
];

/// And back.
pub const TAKE_DOWN: [Step; 4] = [
    step("shut the cell down", &["crtos", "cell", "shutdown"]),
    step("destroy the cell", &["crtos", "cell", "destroy"]),
    step("disable the hypervisor", &["crtos", "disable"]),
    step("unload crtos.ko", &["/sbin/rmmod", "crtos"]),
];

/// Steps as lines of a shell script.
pub fn script(steps: &[Step]) -> String {
    steps.iter().map(|step| step.argv.join(" ") + "\n").collect()
}
