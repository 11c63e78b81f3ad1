//! Numbers without a pattern, the same in every run that begins with the same seed.

/// xorshift64.
pub struct Random(u64);

impl Random {
    /// Begins with `seed`, which is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next one below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }
}
