//! What a test machine consists of, and the QEMU command line that says so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::wire::{PORTS, ROOT_TAG, WORK_TAG};

/// A Debian kernel, unpacked somewhere.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `6.1.0-…-rt-amd64`.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its `lib/modules/<release>`.
    pub modules: PathBuf,
    /// What `make -C` is called with to build modules for it.
    pub headers: PathBuf,
}

/// A machine that can be booted.
#[derive(Debug, Clone)]
pub struct Machine {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// A library that QEMU loads first, which mends it (`examples/mend.rs`).
    pub mend: PathBuf,
    /// Linux.
    pub kernel: Kernel,
    /// The initramfs, made by [`crate::initramfs::build`].
    pub initramfs: PathBuf,
    /// `-accel`.
    pub accelerator: String,
    /// `-cpu`.
    pub cpu: String,
    /// An interrupt remapping unit, without which Linux does not use x2APIC.
    pub remapping: bool,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Added to the kernel's command line.
    pub kernel_options: Vec<String>,
    /// The directory that is writable from inside, at the same path.
    pub work: Option<PathBuf>,
    /// Files put into it: from, to, mode.
    pub files: Vec<(PathBuf, PathBuf, u32)>,
    /// A network device, and this side at the other end of its cable ([`crate::vm::Vm::lan`]): QEMU's `-device`.
    pub lan: Option<String>,
    /// Further QEMU arguments.
    pub arguments: Vec<OsString>,
    /// Where the logs go; it exists.
    pub logs: PathBuf,
}

impl Machine {
    /// The default machine: QEMU's q35 with an AMD CPU that has SVM, in software emulation.
    pub fn new(kernel: Kernel, initramfs: PathBuf, mend: PathBuf, logs: PathBuf) -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            mend,
            kernel,
            initramfs,
            accelerator: "tcg,thread=multi".into(),
            cpu: "EPYC,+svm,+npt".into(),
            remapping: false,
            cpus: 4,
            memory: 2048,
            kernel_options: Vec::new(),
            work: None,
            files: Vec::new(),
            lan: None,
            arguments: Vec::new(),
            logs,
        }
    }

    /// Log of the Linux console (COM2).
    pub fn linux_log(&self) -> PathBuf {
        self.logs.join("linux.log")
    }

    /// Log of COM1: what the hypervisor says.
    pub fn hypervisor_log(&self) -> PathBuf {
        self.logs.join("hypervisor.log")
    }

    /// The kernel's command line.
    pub fn command_line(&self) -> String {
        // loglevel=5: warnings and worse on the console, so that it costs no time when all is well.
        let mut line = "console=ttyS1,115200 loglevel=5 panic=-1 net.ifnames=0".to_owned();
        for option in &self.kernel_options {
            line.push(' ');
            line.push_str(option);
        }
        line
    }

    /// QEMU's arguments; the sockets of the ports, and of QMP, are in `sockets`.
    pub fn qemu_arguments(&self, sockets: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &str| args.extend(words.split(' ').map(OsString::from));
        add("-machine q35 -nodefaults -no-user-config -display none -no-reboot -monitor none");
        add(&format!("-accel {} -cpu {}", self.accelerator, self.cpu));
        add(&format!("-smp {} -m {}M", self.cpus, self.memory));
        if self.remapping {
            // Before the devices behind it.
            add("-device intel-iommu,intremap=on,eim=on");
        }
        add("-device virtio-serial-pci,max_ports=8");
        let mut pair = |key: &str, value: OsString| args.extend([key.into(), value]);
        pair("-qmp", joined("unix:", &sockets.join("qmp"), ",server=on,wait=off"));
        pair("-serial", joined("file:", &self.hypervisor_log(), ""));
        pair("-serial", joined("file:", &self.linux_log(), ""));
        for (number, port) in PORTS.iter().enumerate() {
            let id = format!("port{number}");
            let socket = sockets.join(port);
            pair("-chardev", joined(&format!("socket,id={id},path="), &socket, ""));
            pair("-device", format!("virtserialport,chardev={id},name={port}").into());
        }
        // Several file systems may be mounted below an exported directory: keep their inodes apart.
        let share = ",security_model=none,multidevs=remap";
        let root = joined("local,id=root,path=", Path::new("/"), &format!("{share},readonly=on"));
        pair("-fsdev", root);
        pair("-device", format!("virtio-9p-pci,fsdev=root,mount_tag={ROOT_TAG}").into());
        if let Some(work) = &self.work {
            pair("-fsdev", joined("local,id=work,path=", work, share));
            pair("-device", format!("virtio-9p-pci,fsdev=work,mount_tag={WORK_TAG}").into());
        }
        if let Some(device) = &self.lan {
            pair("-netdev", joined("stream,id=lan,server=on,addr.type=unix,addr.path=", &sockets.join("lan"), ""));
            pair("-device", format!("{device},netdev=lan").into());
        }
        pair("-kernel", self.kernel.image.clone().into());
        pair("-initrd", self.initramfs.clone().into());
        pair("-append", self.command_line().into());
        args.extend(self.arguments.iter().cloned());
        args
    }
}

/// Text, path, text. QEMU doubles a comma in an option's value.
fn joined(before: &str, path: &Path, after: &str) -> OsString {
    let mut text = OsString::from(before);
    match path.to_str() {
        Some(path) => text.push(path.replace(',', ",,")),
        None => text.push(path),
    }
    text.push(after);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let kernel = Kernel {
            release: "6.1".into(),
            image: "/k/vmlinuz".into(),
            modules: "/k/modules".into(),
            headers: "/k/headers".into(),
        };
        Machine::new(kernel, "/i".into(), "/m".into(), "/logs".into())
    }

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        let mut machine = machine();
        machine.work = Some("/a,b".into());
        let args = machine.qemu_arguments(Path::new("/s"));
        assert!(args.iter().any(|a| a.to_string_lossy().contains("path=/a,,b,")));
    }

    #[test]
    fn kernel_options_are_added() {
        let mut machine = machine();
        machine.kernel_options.push("memmap=352M$0x50000000".into());
        assert!(machine.command_line().ends_with(" memmap=352M$0x50000000"));
    }
}
