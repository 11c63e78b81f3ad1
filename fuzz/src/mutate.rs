//! `mutate TARGET SECONDS [SEED]`: changes inputs at random and hands them to the target. The same seed gives the same inputs.
//!
//! Before each input its number is known, so a panic can be repeated: the input is written to `mutate-TARGET.input`.

use std::time::{Duration, Instant};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Words that mean something to one target or the other, and numbers at the edges.
const WORDS: [&[u8]; 24] = [
    b"0",
    b"-1",
    b"4095",
    b"4096",
    b"0xffff_ffff",
    b"0x7fff_ffff_ffff_ffff",
    b"\"1 GiB\"",
    b"\"x\"",
    b"[]",
    b"{}",
    b"true",
    b"\"rwx\"",
    b"\"rx\"",
    b"\"always\"",
    b"[[server]]\n",
    b"[memory.a]\n",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x10",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80\x01",
    b"\x80\x20",
];

/// One change.
fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len());
    let to = (at + 1 + random.below(40)).min(input.len());
    match random.below(8) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.next() as u8,
        2 => drop(input.drain(at..to)),
        3 => {
            let piece = input[at..to].to_vec();
            let place = random.below(input.len());
            input.splice(place..place, piece);
        }
        4 => {
            let from = random.below(other.len());
            let end = (from + 1 + random.below(200)).min(other.len());
            input.splice(at..at, other[from..end].iter().copied());
        }
        5 => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
        6 => {
            // A value after "=" in the text: what a manifest is made of.
            let values: Vec<usize> =
                input.windows(2).enumerate().filter(|(_, w)| w == b"= ").map(|(i, _)| i + 2).collect();
            if let Some(start) = values.get(random.below(values.len())) {
                let length = input[*start..].iter().position(|b| b",\n}".contains(b)).unwrap_or(0);
                input.splice(*start..start + length, WORDS[random.below(WORDS.len())].iter().copied());
            }
        }
        _ => input.truncate(at.max(1)),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let usage = "mutate manifest|blob SECONDS [SEED]";
    let (target, seconds) =
        (arguments.get(1).expect(usage).clone(), arguments.get(2).and_then(|s| s.parse().ok()).expect(usage));
    let seed = arguments.get(3).and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let run: fn(&[u8]) = match target.as_str() {
        "manifest" => fuzz::manifest,
        "blob" => fuzz::blob,
        _ => panic!("{usage}"),
    };
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let seeds = fuzz::seeds(&target);
    assert!(!seeds.is_empty(), "there is nothing to begin with");
    seeds.iter().for_each(|seed| run(seed));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0u64;
    while Instant::now() < end {
        let mut input = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        for _ in 0..1 + random.below(6) {
            change(&mut input, other, &mut random);
        }
        if std::panic::catch_unwind(|| run(&input)).is_err() {
            let file = format!("mutate-{target}.input");
            std::fs::write(&file, &input).expect("the input can be written");
            eprintln!("input {runs} of seed {seed} has made it panic: {file}");
            std::process::exit(1);
        }
        runs += 1;
    }
    println!("{target}: {runs} inputs from {} seeds in {seconds} s, seed {seed}, nothing found", seeds.len());
}
