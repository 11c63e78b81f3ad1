//! Our own terminal, and the signals that we get for somebody else.

use std::os::fd::AsFd;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;
use tests::vm::Event;

/// Raw mode: every key goes to the machine, Ctrl-C too. Ends when dropped.
pub struct RawTerminal(Termios);

impl RawTerminal {
    /// Switches to raw mode.
    pub fn new() -> Result<Self> {
        let input = std::io::stdin();
        let before = tcgetattr(input.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

/// Rows and columns.
pub fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout().as_fd()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// From now on, signals to us are signals to the command in the machine.
pub fn forward_signals(events: Sender<Event>, interactive: bool) -> Result<()> {
    let mut list = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
    if interactive {
        list.push(SIGWINCH);
    }
    let mut signals = Signals::new(list)?;
    thread::spawn(move || {
        let mut patience = 3;
        for number in signals.forever() {
            if [SIGINT, SIGTERM, SIGQUIT].contains(&number) {
                // Whoever asks that often does not want to wait for the machine any more.
                patience -= 1;
                if patience == 0 {
                    std::process::exit(125);
                }
            }
            let event = if number == SIGWINCH {
                let (rows, columns) = size();
                Event::Resize(rows, columns)
            } else {
                Event::Signal(number)
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}
