//! Memory taken from the running Linux, in the blocks that it can take off line, and given back.
//!
//! A block goes off line when Linux could move all that is in it elsewhere. Those that hold memory of the kernel cannot; which ones
//! is found out by trying, from the highest down, until enough of them lie side by side. What was tried in vain is put on line
//! again, as movable: nothing that cannot move gets into it from then on.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::hypervisor::Hypervisor;

const DIRECTORY: &str = "sys/devices/system/memory";
/// Longest time for one block: pages that are in use for a moment are tried again and again by Linux.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// The blocks of this machine.
struct Blocks {
    directory: PathBuf,
    /// Bytes of each.
    size: u64,
    /// Numbers of those on line that may be tried, in ascending order.
    candidates: Vec<u64>,
}

impl Blocks {
    fn read(root: &Path) -> Result<Self> {
        let directory = root.join(DIRECTORY);
        let size = fs::read_to_string(directory.join("block_size_bytes")).context(
            "this Linux cannot take memory off line (no CONFIG_MEMORY_HOTREMOVE): reserve it with memmap= instead",
        )?;
        let size = u64::from_str_radix(size.trim(), 16).context("block_size_bytes is no number")?;
        let iomem = fs::read_to_string(root.join("proc/iomem")).context("cannot read /proc/iomem")?;
        let kernel = around_kernel(&iomem)?;
        let mut candidates = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("memory")?.parse::<u64>().ok());
            let Some(number) = number else { continue };
            if kernel.contains(&number.saturating_mul(size)) {
                continue;
            }
            let state = fs::read_to_string(directory.join(format!("memory{number}/state")))?;
            if state.trim() == "online" {
                candidates.push(number);
            }
        }
        candidates.sort_unstable();
        Ok(Self { directory, size, candidates })
    }

    fn state(&self, number: u64) -> PathBuf {
        self.directory.join(format!("memory{number}/state"))
    }

    /// Takes a block off line. By a process of its own, since only a signal ends Linux's attempts.
    fn off_line(&self, number: u64) -> Result<()> {
        let script = format!("echo offline > {}", self.state(number).display());
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run /bin/sh")?;
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(anyhow!("holds memory that Linux cannot move")) };
            }
            if Instant::now() > limit {
                child.kill()?;
                // It may have come to its end meanwhile.
                let done = child.wait()?.success();
                return if done { Ok(()) } else { Err(anyhow!("did not get empty in {} s", PATIENCE.as_secs())) };
            }
            std::thread::sleep(LOOK);
        }
    }

    fn on_line(&self, number: u64) -> io::Result<()> {
        let path = self.state(number);
        if fs::read_to_string(&path)?.trim() == "online" {
            return Ok(());
        }
        fs::write(path, "online_movable")
    }

    fn all_on_line(&self, numbers: &[u64]) {
        for number in numbers {
            if let Err(error) = self.on_line(*number) {
                eprintln!("crtos: memory{number} stays off line: {error}");
            }
        }
    }
}

/// From where the memory begins that the running kernel's image lies in, to the image's end. Nothing of that may be removed: Linux
/// would not take it out of its list, and a mapping of it later would end in a panic.
fn around_kernel(iomem: &str) -> Result<Range<u64>> {
    let mut ram = 0;
    for line in iomem.lines() {
        let Some((range, name)) = line.split_once(" : ") else { continue };
        let ends = range.trim().split_once('-');
        let ends = ends.and_then(|(a, b)| Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?)));
        let (start, last) = ends.context("/proc/iomem is not understood")?;
        if !line.starts_with(' ') {
            ram = start;
        }
        if name == "Kernel bss" {
            if last == 0 {
                bail!("/proc/iomem shows no addresses: run this as root");
            }
            return Ok(ram..last + 1);
        }
    }
    bail!("/proc/iomem does not say where the kernel is")
}

/// Reads `768M`: K, M or G.
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        unit => bail!("\"{unit}\" is no unit: write K, M or G"),
    };
    let number: u64 = digits.parse().map_err(|_| anyhow!("\"{text}\" is no size: write 768M"))?;
    number.checked_mul(1 << shift).context("more than there can be")
}

/// Memory that Linux does not have any more; it gets it back when this is dropped, unless it is kept.
pub struct Taken<'a> {
    hypervisor: &'a Hypervisor,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    kept: bool,
}

impl Taken<'_> {
    /// It stays taken: the hypervisor has it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = give_back(self.hypervisor)
        {
            eprintln!("crtos: {error:#}");
        }
    }
}

/// Tries the candidates from the highest down until `count` neighbours are off line; the first of them. `off_line` and `on_line` do
/// it; `refused` is told of those that stay.
fn neighbours(
    candidates: &[u64],
    count: u64,
    mut off_line: impl FnMut(u64) -> Result<()>,
    mut on_line: impl FnMut(&[u64]),
    mut refused: impl FnMut(u64, anyhow::Error),
) -> Option<u64> {
    let mut run: Vec<u64> = Vec::new();
    for (index, number) in candidates.iter().enumerate().rev() {
        if run.last().is_some_and(|last| last - 1 != *number) {
            on_line(&run);
            run.clear();
        }
        // Not if there are not enough below.
        let needed = count as usize - run.len();
        let first = index.checked_add(1)?.checked_sub(needed).map(|at| candidates[at]);
        if first.is_none_or(|first| first + needed as u64 != number + 1) {
            on_line(&run);
            run.clear();
            continue;
        }
        match off_line(*number) {
            Ok(()) => run.push(*number),
            Err(error) => {
                refused(*number, error);
                on_line(&run);
                run.clear();
            }
        }
        if run.len() as u64 == count {
            return Some(*number);
        }
    }
    on_line(&run);
    None
}

/// Takes `size` bytes, rounded up to whole blocks, from Linux; says which, and which not and why.
pub fn take(hypervisor: &Hypervisor, size: u64) -> Result<Taken<'_>> {
    let blocks = Blocks::read(Path::new("/"))?;
    let count = size.div_ceil(blocks.size);
    let first = neighbours(
        &blocks.candidates,
        count,
        |number| blocks.off_line(number),
        |run| blocks.all_on_line(run),
        |number, why| println!("left memory{number} at {:#x}: {why:#}", number * blocks.size),
    );
    let Some(first) = first else {
        bail!(
            "no {count} neighbouring memory blocks of {} MiB can be taken from Linux: free some memory, ask for less, boot Linux with nokaslr, so that its kernel lies below all others, or reserve the memory with memmap=",
            blocks.size >> 20
        );
    };
    let (start, size) = (first * blocks.size, count * blocks.size);
    if let Err(error) = hypervisor.take_memory(start, size) {
        blocks.all_on_line(&(first..first + count).collect::<Vec<_>>());
        return Err(error);
    }
    for number in first..first + count {
        println!("took memory{number} at {:#x}", number * blocks.size);
    }
    Ok(Taken { hypervisor, start, size, kept: false })
}

/// Linux gets back what was taken, if anything was.
pub fn give_back(hypervisor: &Hypervisor) -> Result<()> {
    let (start, size) = hypervisor.give_memory()?;
    if size == 0 {
        return Ok(());
    }
    let blocks = Blocks::read(Path::new("/"))?;
    for number in start / blocks.size..(start + size) / blocks.size {
        blocks.on_line(number).with_context(|| format!("memory{number} does not come back on line"))?;
    }
    Ok(())
}

/// Where the hypervisor's memory lies, if it is enabled: the driver has claimed it under this name.
pub fn of_hypervisor(iomem: &str) -> Option<u64> {
    let line = iomem.lines().find(|line| line.ends_with(": crtos hypervisor"))?;
    u64::from_str_radix(line.trim().split('-').next()?, 16).ok().filter(|start| *start != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken of these blocks, and what was off line and put on line again.
    fn taken(candidates: &[u64], count: u64, stuck: &[u64]) -> (Option<u64>, Vec<u64>, Vec<u64>) {
        let (mut returned, mut tried) = (Vec::new(), Vec::new());
        let first = neighbours(
            candidates,
            count,
            |number| {
                tried.push(number);
                if stuck.contains(&number) { bail!("stuck") } else { Ok(()) }
            },
            |run| returned.extend_from_slice(run),
            |number, _| assert!(stuck.contains(&number)),
        );
        (first, returned, tried)
    }

    #[test]
    fn neighbours_are_found_from_the_top() {
        assert_eq!(taken(&[3, 4, 5, 6], 2, &[]), (Some(5), vec![], vec![6, 5]));
        assert_eq!(taken(&[3, 4, 5, 6], 2, &[5]), (Some(3), vec![6], vec![6, 5, 4, 3]));
        assert_eq!(taken(&[3, 4, 6], 2, &[]), (Some(3), vec![], vec![4, 3]), "6 has no neighbour");
        assert_eq!(taken(&[3, 4, 5, 6], 4, &[4]), (None, vec![6, 5], vec![6, 5, 4]));
        assert_eq!(taken(&[3, 4], 3, &[]), (None, vec![], vec![]));
        assert_eq!(taken(&[], 1, &[]), (None, vec![], vec![]));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("768M").unwrap(), 768 << 20);
        assert_eq!(parse_size("1G").unwrap(), 1 << 30);
        assert!(parse_size("M").is_err() && parse_size("1T").is_err() && parse_size("99999999999G").is_err());
    }

    #[test]
    fn places_in_iomem() {
        let iomem =
            "00100000-4fffffff : System RAM\n  02e00000-035fffff : Kernel bss\n50000000-50ffffff : crtos hypervisor\n";
        assert_eq!(around_kernel(iomem).unwrap(), 0x10_0000..0x360_0000);
        assert_eq!(of_hypervisor(iomem), Some(0x5000_0000));
        assert_eq!(of_hypervisor("00000000-00000000 : crtos hypervisor\n"), None);
        assert!(around_kernel("00000000-00000000 : System RAM\n  00000000-00000000 : Kernel bss\n").is_err());
        assert!(around_kernel("00000000-00000fff : Reserved\n").is_err());
    }
}
