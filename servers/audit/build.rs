//! Links the server with the layout that every server has.

fn main() {
    println!("cargo:rerun-if-changed=../rt/link.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{}/../rt/link.ld", env!("CARGO_MANIFEST_DIR"));
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
