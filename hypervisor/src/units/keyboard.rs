//! The keyboard controller's command port, by which a PC is reset too: a cell that has it may do all but that.

/// The port.
pub const COMMAND_PORT: u16 = 0x64;

/// Whether a command could pull the line that resets the machine: by a pulse of the output lines, or because what is written to the data port next
/// sets them.
#[must_use]
pub const fn resets(command: u8) -> bool {
    const WRITE_OUTPUT: u8 = 0xd1;
    const PULSE: u8 = 0xf0;
    command == WRITE_OUTPUT || command & PULSE == PULSE
}

#[cfg(test)]
mod tests {
    use super::resets;

    #[test]
    fn what_resets() {
        assert!(resets(0xfe) && resets(0xf0) && resets(0xff) && resets(0xd1));
        // Self-test, read and write the configuration, disable.
        assert!([0xaa, 0x20, 0x60, 0xad, 0xd0, 0xd2, 0xd4].iter().all(|&command| !resets(command)));
    }
}
