//! Operations that need Linux: tasks, each a future, in the one thread of the server.
//!
//! A task waits for one thing only: the answer to the request that it has put on the ring. So there are no wakers: the
//! answer's cookie says which task goes on. A task never holds a borrow of the server while it waits.

use crate::errno::{Errno, Result};
use crate::server::Server;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use ipc::shadow::request_kind;

/// The answer to a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Return {
    /// Linux's result.
    pub value: i64,
    /// Slot of a new thread.
    pub new_slot: u32,
    /// Its generation.
    pub new_generation: u32,
}

/// Whose task it is: slot and generation of the process's leader.
pub type Owner = (u32, u32);

struct Task {
    owner: Owner,
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

#[derive(Default)]
struct Tasks {
    list: BTreeMap<u64, Task>,
    ready: VecDeque<u64>,
    /// Cookies in flight: which task waits, and the answer once it is there.
    waiting: BTreeMap<u64, (u64, Option<Return>)>,
    last: u64,
}

/// The server and its tasks.
pub struct Shell {
    server: RefCell<Server>,
    tasks: RefCell<Tasks>,
    current: Cell<u64>,
    /// Bytes of argument blocks that programs being loaded hold.
    pub argument_bytes: Cell<u64>,
}

impl Shell {
    /// With no tasks yet.
    pub fn new(server: Server) -> Rc<Shell> {
        Rc::new(Shell {
            server: RefCell::new(server),
            tasks: RefCell::default(),
            current: Cell::new(0),
            argument_bytes: Cell::new(0),
        })
    }

    /// Does something with the server. Not to be nested.
    pub fn with<R>(&self, with: impl FnOnce(&mut Server) -> R) -> R {
        with(&mut self.server.borrow_mut())
    }

    /// Starts a task; it runs with the next [`Shell::run`].
    pub fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.last += 1;
        let id = tasks.last;
        tasks.list.insert(id, Task { owner, future: Some(Box::pin(future)) });
        tasks.ready.push_back(id);
    }

    /// Drops all tasks of a process.
    pub fn cancel(&self, owner: Owner) {
        let dropped: alloc::vec::Vec<Task> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: alloc::vec::Vec<u64> =
                tasks.list.iter().filter(|(_, task)| task.owner == owner).map(|(id, _)| *id).collect();
            tasks.waiting.retain(|_, (task, _)| !ids.contains(task));
            ids.iter().filter_map(|id| tasks.list.remove(id)).collect()
        };
        drop(dropped);
    }

    /// An answer came. Cookies that nobody waits for are dropped.
    pub fn complete(&self, cookie: u64, answer: Return) {
        let mut tasks = self.tasks.borrow_mut();
        if let Some((task, slot)) = tasks.waiting.get_mut(&cookie)
            && slot.is_none()
        {
            let task = *task;
            *slot = Some(answer);
            tasks.ready.push_back(task);
        }
    }

    /// All requests in flight end with this answer.
    pub fn complete_all(&self, answer: Return) {
        let cookies: alloc::vec::Vec<u64> = self.tasks.borrow().waiting.keys().copied().collect();
        for cookie in cookies {
            self.complete(cookie, answer);
        }
    }

    /// Runs what can run.
    pub fn run(self: &Rc<Self>) {
        loop {
            let jobs = self.with(|server| core::mem::take(&mut server.jobs));
            for job in jobs {
                crate::process::start_job(self, job);
            }
            let next = {
                let mut tasks = self.tasks.borrow_mut();
                tasks.ready.pop_front().map(|id| (id, tasks.list.get_mut(&id).and_then(|task| task.future.take())))
            };
            let Some((id, future)) = next else {
                if self.with(|server| server.jobs.is_empty()) {
                    return;
                }
                continue;
            };
            let Some(mut future) = future else { continue };
            self.current.set(id);
            let done = future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            let mut tasks = self.tasks.borrow_mut();
            if done {
                tasks.list.remove(&id);
            } else if let Some(task) = tasks.list.get_mut(&id) {
                // (If it is not in the list any more, it was cancelled while it ran.)
                task.future = Some(future);
                continue;
            }
            drop(tasks);
            drop(future);
        }
    }

    /// Tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.tasks.borrow().list.len()
    }

    /// Puts a request on the ring, in the name of the thread in `slot`, and waits for the answer.
    pub async fn request(&self, slot: u32, kind: u32, number: u64, arguments: [u64; 6]) -> Result<Return> {
        let cookie = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.last += 1;
            let cookie = tasks.last;
            tasks.waiting.insert(cookie, (self.current.get(), None));
            cookie
        };
        if let Err(error) = self.with(|server| server.submit(slot, kind, number, arguments, cookie)) {
            self.tasks.borrow_mut().waiting.remove(&cookie);
            return Err(error);
        }
        poll_fn(|_| {
            let mut tasks = self.tasks.borrow_mut();
            match tasks.waiting.get(&cookie) {
                Some((_, Some(answer))) => {
                    let answer = *answer;
                    tasks.waiting.remove(&cookie);
                    Poll::Ready(Ok(answer))
                }
                Some((_, None)) => Poll::Pending,
                None => Poll::Ready(Err(Errno::EIO)),
            }
        })
        .await
    }

    /// Makes a Linux system call in the worker of `slot`.
    pub async fn remote(&self, slot: u32, number: u32, arguments: &[u64]) -> Result<u64> {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let answer = self.request(slot, request_kind::CALL, number.into(), all).await?;
        Errno::check(answer.value)
    }
}
