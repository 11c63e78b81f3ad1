//! The world as it is: shared memory, the shadow device, Replies and the client's notification.

use core::sync::atomic::{AtomicU32, Ordering};
use ipc::shadow::{
    LINUX_MAGIC, LinuxHeader, PEER_LINUX, PEER_RT, REQUESTS, RESPONSES, RT_MAGIC, Request, Response, RtHeader,
    VECTOR_DOORBELL, VERSION, request_kind,
};
use rt::shared::{Array, Device};
use rt::{Answer, Caller, Cap, Notification, Replies, Start, log};
use vfs_proxy::channel::Channel;

/// Registers of the ivshmem device.
mod register {
    pub const ID: usize = 0x00;
    pub const INTERRUPT_CONTROL: usize = 0x08;
    pub const DOORBELL: usize = 0x0c;
    pub const STATE: usize = 0x10;
}

/// State of a peer whose side of the channel is complete.
const STATE_RUN: u32 = 3;

/// The channel's memory and device.
pub struct Live {
    rt: &'static RtHeader,
    requests: Array<Request>,
    linux: &'static LinuxHeader,
    responses: Array<Response>,
    states: &'static [AtomicU32],
    device: Device,
    client: Option<Cap<Notification>>,
}

impl Live {
    /// What the manifest grants; `None`: the device is not there.
    pub fn find(start: &Start) -> Option<Live> {
        let memory = |name| {
            let mapping = start.memory(name);
            if mapping.is_none() && name != "registers" {
                log!("the manifest grants no memory {name:?}");
            }
            mapping
        };
        let live = Live {
            device: memory("registers")?.device(),
            rt: memory("rt-header")?.atomics(0)?,
            requests: memory("requests")?.array(0, REQUESTS)?,
            linux: memory("linux-header")?.atomics(0)?,
            responses: memory("responses")?.array(0, RESPONSES)?,
            states: memory("state-table")?.atomics_slice(0, 2)?,
            client: start.notification("linux"),
        };
        match live.device.read(register::ID) {
            PEER_RT => Some(live),
            id => {
                log!("the shadow device gives this side the number {id}, not {PEER_RT}");
                None
            }
        }
    }

    /// Says that this side is not complete.
    pub fn silence(&self) {
        self.rt.magic.store(0, Ordering::Release);
    }

    /// Says that this side is complete, and lets the device interrupt.
    pub fn announce(&self, tsc_khz: u64) {
        self.rt.version.store(VERSION, Ordering::Relaxed);
        self.rt.epoch.fetch_add(1, Ordering::Relaxed);
        self.rt.tsc_khz.store(tsc_khz, Ordering::Relaxed);
        self.rt.magic.store(RT_MAGIC, Ordering::Release);
        self.device.write(register::STATE, STATE_RUN);
        self.device.write(register::INTERRUPT_CONTROL, 1);
    }

    /// How often Linux is to show that it lives, in microseconds; 0: as it likes.
    pub fn want_pulse(&self, us: u64) {
        self.rt.pulse_us.store(us, Ordering::Relaxed);
    }

    /// What shows that it lives.
    pub fn pulse(&self) -> u64 {
        self.linux.heartbeat.load(Ordering::Relaxed)
    }

    /// A sign of life.
    pub fn beat(&self) {
        self.rt.heartbeat.fetch_add(1, Ordering::Relaxed);
    }
}

/// The channel together with the callers that wait.
pub struct Port<'a> {
    /// The channel.
    pub live: &'a mut Live,
    /// The Replies that keep nobody.
    pub replies: &'a mut Replies,
}

impl Channel for Port<'_> {
    fn peer(&self) -> Option<u32> {
        let linux = self.live.linux;
        let is_there = self.live.states[PEER_LINUX as usize].load(Ordering::Acquire) == STATE_RUN
            && linux.magic.load(Ordering::Acquire) == LINUX_MAGIC
            && linux.version.load(Ordering::Relaxed) == VERSION;
        is_there.then(|| linux.epoch.load(Ordering::Relaxed))
    }

    fn request_head(&self) -> u32 {
        self.live.linux.request_head.load(Ordering::Acquire)
    }

    fn response_tail(&self) -> u32 {
        self.live.linux.response_tail.load(Ordering::Acquire)
    }

    fn response(&self, index: u32) -> Response {
        self.live.responses.read(index as usize % RESPONSES)
    }

    fn request(&self, index: u32) -> Request {
        self.live.requests.read(index as usize % REQUESTS)
    }

    fn put_request(&mut self, index: u32, request: &Request) {
        self.live.requests.write(index as usize % REQUESTS, request);
        self.live.rt.requests_sent.fetch_add(1, Ordering::Relaxed);
        if request.kind == request_kind::CALL
            && let Some(word) = self.live.rt.calls.get(request.slot as usize)
        {
            let generation = u64::from(request.generation) << 32;
            let before = word.load(Ordering::Relaxed);
            let calls = if before >> 32 == generation >> 32 { u64::from(before as u32) } else { 0 };
            word.store(generation | (calls + 1).min(u32::MAX.into()), Ordering::Relaxed);
        }
    }

    fn request_tail(&self) -> u32 {
        self.live.rt.request_tail.load(Ordering::Relaxed)
    }

    fn set_request_tail(&mut self, tail: u32) {
        self.live.rt.request_tail.store(tail, Ordering::Release);
    }

    fn response_head(&self) -> u32 {
        self.live.rt.response_head.load(Ordering::Relaxed)
    }

    fn set_response_head(&mut self, head: u32) {
        self.live.rt.response_head.store(head, Ordering::Release);
    }

    fn doorbell(&mut self) {
        self.live.device.write(register::DOORBELL, u32::from(VECTOR_DOORBELL) | PEER_LINUX << 16);
    }

    fn answer(&mut self, reply: u32, value: i64) {
        self.replies.answer(Caller::found(Cap::new(reply)), Answer::value(value));
    }

    fn signal(&mut self) {
        if let Some(client) = self.live.client {
            // It can only fail if the client's notification is no more; then nobody is there to be told.
            let _ = client.signal();
        }
    }

    fn dropped(&mut self) {
        self.live.rt.responses_dropped.fetch_add(1, Ordering::Relaxed);
    }
}
