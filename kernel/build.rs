//! Links the bare-metal programs of this package, each by its own script: the kernel, and its test in user mode.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=user.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for (program, script) in [("kernel", "link.ld"), ("selftest", "user.ld")] {
            for argument in [&format!("-T{directory}/{script}"), "-no-pie", "--gc-sections", "-zmax-page-size=4096"] {
                println!("cargo:rustc-link-arg-bin={program}={argument}");
            }
        }
    }
}
