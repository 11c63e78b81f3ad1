//! `crtos log`: the console of the real-time realm, that it keeps as a ring in shared memory.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::realm::Realm;

/// How often to look for more.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct Arguments {
    /// Go on and show what comes
    #[arg(short, long)]
    follow: bool,
}

pub fn log(arguments: &Arguments) -> Result<()> {
    let realm = Realm::open()?;
    let mut shown = 0;
    loop {
        let (written, text) = realm.console()?;
        // A new start of the realm begins to count anew.
        let new = if written < shown { written } else { written - shown };
        let new = usize::try_from(new).unwrap_or(usize::MAX).min(text.len());
        let mut out = std::io::stdout().lock();
        out.write_all(&text[text.len() - new..])?;
        out.flush()?;
        shown = written;
        if !arguments.follow {
            return Ok(());
        }
        std::thread::sleep(PERIOD);
    }
}
