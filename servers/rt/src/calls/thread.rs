//! Threads.

use super::{AddressSpace, Cap, CapTable, Endpoint, Frame, Notification, Result, Thread};
use crate::buffer;
use ipc::Call;
use ipc::message::Registers;

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// 0 stopped, 1 ready or running, 2 sending, 3 receiving, 4 waiting for an answer, 5 waiting for a signal, 6 faulted.
    pub state: u64,
    /// Time-stamp counter ticks that it has used.
    pub consumed: u64,
    /// Where it is.
    pub rip: u64,
}

impl Cap<Thread> {
    /// Says what the thread runs in. Without a capability table it is a foreign thread.
    pub fn configure(
        self,
        space: Cap<AddressSpace>,
        table: Option<Cap<CapTable>>,
        fault: Option<Cap<Endpoint>>,
        buffer: Option<(Cap<Frame>, u64)>,
        id: u64,
    ) -> Result {
        let (frame, page) = buffer.map_or((0, 0), |(frame, page)| (frame.slot, page));
        let arguments = [
            space.slot.into(),
            table.map_or(0, Cap::slot).into(),
            fault.map_or(0, Cap::slot).into(),
            frame.into(),
            page,
            id,
        ];
        self.invoke(Call::ThreadConfigure, arguments).map(drop)
    }

    /// Lets the thread run.
    pub fn resume(self) -> Result {
        self.invoke(Call::ThreadResume, []).map(drop)
    }

    /// Stops the thread wherever it is.
    pub fn suspend(self) -> Result {
        self.invoke(Call::ThreadSuspend, []).map(drop)
    }

    /// Registers of a thread that is not running.
    pub fn read_registers(self) -> Result<Registers> {
        self.invoke(Call::ThreadReadRegisters, [])?;
        Ok(buffer::registers())
    }

    /// Sets the registers of a thread that is not running.
    pub fn write_registers(self, registers: &Registers) -> Result {
        buffer::set_registers(registers);
        self.invoke(Call::ThreadWriteRegisters, []).map(drop)
    }

    /// Receives of the thread also return on signals of this notification.
    pub fn bind_notification(self, notification: Option<Cap<Notification>>) -> Result {
        self.invoke(Call::ThreadBindNotification, [notification.map_or(0, Cap::slot).into()]).map(drop)
    }

    /// Sets the FS base of a thread that is not running.
    pub fn set_tls(self, fs_base: u64) -> Result {
        self.invoke(Call::ThreadSetTls, [fs_base]).map(drop)
    }

    /// What it is doing.
    pub fn state(self) -> Result<State> {
        let [state, consumed, rip, _] = self.invoke(Call::ThreadState, [])?;
        Ok(State { state, consumed, rip })
    }

    /// Takes over the FPU state of another stopped or blocked thread.
    pub fn copy_fpu(self, source: Cap<Thread>) -> Result {
        self.invoke(Call::ThreadCopyFpu, [source.slot.into()]).map(drop)
    }

    /// Copies the FPU image of a thread that is not running; gives the bytes copied.
    pub fn read_fpu(self, image: &mut [u8]) -> Result<usize> {
        let address = image.as_mut_ptr().expose_provenance() as u64;
        self.invoke(Call::ThreadFpu, [address, image.len() as u64, 0])
            .map(|[bytes, ..]| (bytes as usize).min(image.len()))
    }

    /// Sets the FPU image of a thread that is not running; gives the bytes used.
    pub fn write_fpu(self, image: &[u8]) -> Result<usize> {
        let address = image.as_ptr().expose_provenance() as u64;
        self.invoke(Call::ThreadFpu, [address, image.len() as u64, 1]).map(|[bytes, ..]| bytes as usize)
    }
}
