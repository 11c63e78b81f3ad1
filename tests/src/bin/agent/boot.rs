//! From the initramfs to a usable system: modules, mounts, loopback, and back to power-off.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};
use tests::wire::{MODULE_LIST, ROOT_TAG, WORK_TAG};

const NONE: MountFlags = MountFlags::empty();

/// Says something in the kernel log.
pub fn log(text: &str) {
    if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // <4> is a warning: shown on the console even of a quiet boot.
        let _ = kmsg.write_all(format!("<4>agent: {text}\n").as_bytes());
    }
}

/// Makes the harness machine's own root file system, with a tmpfs over it, this one's root.
pub fn root_file_system() -> Result<()> {
    attach("devtmpfs", "/dev", "devtmpfs", NONE, "mode=0755")?;
    attach("proc", "/proc", "proc", NONE, "")?;
    attach("sysfs", "/sys", "sysfs", NONE, "")?;
    for module in fs::read_to_string(MODULE_LIST)?.lines() {
        let file = fs::File::open(module).with_context(|| module.to_owned())?;
        finit_module(&file, c"", 0).with_context(|| format!("loading {module}"))?;
    }
    let options = "trans=virtio,version=9p2000.L,msize=524288,cache=loose";
    attach(ROOT_TAG, "/lower", "9p", MountFlags::RDONLY, options)?;
    attach("tmpfs", "/rw", "tmpfs", NONE, "mode=0755")?;
    fs::create_dir("/rw/upper")?;
    fs::create_dir("/rw/work")?;
    attach("overlay", "/root", "overlay", NONE, "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work")?;
    for directory in ["/dev", "/proc", "/sys"] {
        let target = format!("/root{directory}");
        fs::create_dir_all(&target)?;
        mount_move(directory, &target).with_context(|| format!("moving {directory}"))?;
    }
    std::env::set_current_dir("/root")?;
    mount_move(".", "/").context("moving the root")?;
    rustix::process::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/")?;

    for directory in ["/dev/pts", "/dev/shm", "/run"] {
        fs::create_dir_all(directory)?;
    }
    attach("devpts", "/dev/pts", "devpts", NONE, "gid=5,mode=620,ptmxmode=666")?;
    attach("tmpfs", "/dev/shm", "tmpfs", NONE, "mode=1777")?;
    attach("tmpfs", "/run", "tmpfs", NONE, "mode=0755")?;
    for (to, at) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(to, at).with_context(|| at.to_owned())?;
    }
    // IFF_UP | IFF_LOOPBACK; the kernel gives it 127.0.0.1 by itself.
    fs::write("/sys/class/net/lo/flags", "0x9").context("bringing the loopback interface up")?;
    Ok(())
}

/// Does what [`tests::wire::ToAgent::Prepare`] asks.
pub fn prepare(
    hostname: &str,
    work: Option<&OsStr>,
    modules: &OsStr,
    files: &[(OsString, OsString, u32)],
) -> Result<()> {
    sethostname(hostname.as_bytes()).context("setting the host name")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let target = format!("/lib/modules/{}", release.trim());
    fs::create_dir_all(&target).with_context(|| target.clone())?;
    mount_bind(modules, &target).with_context(|| format!("mounting {target}"))?;
    for (from, to, mode) in files {
        let to = Path::new(to);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        fs::set_permissions(to, fs::Permissions::from_mode(*mode))?;
    }
    if let Some(work) = work {
        // Without a cache for data: both machines see each other's writes. (mmap: shared writable
        // mappings work nevertheless.)
        let options = "trans=virtio,version=9p2000.L,msize=524288,cache=mmap";
        fs::create_dir_all(work)?;
        attach(WORK_TAG, work, "9p", NONE, options)?;
    }
    Ok(())
}

/// Writes back what is dirty and switches the machine off.
pub fn power_off() -> ! {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        log(&format!("power-off: {error}"));
    }
    loop {
        std::thread::park();
    }
}

fn attach(source: &str, target: impl AsRef<OsStr>, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    let target = target.as_ref();
    let options = std::ffi::CString::new(options)?;
    mount(source, target, kind, flags, Some(options.as_c_str()))
        .with_context(|| format!("mounting {source} on {}", target.display()))
}
