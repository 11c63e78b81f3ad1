//! Calls that `linux` makes to `vfs-proxy`. (Applications reach `vfs-proxy` by the kernel's foreign-call route.)
//!
//! None of them waits for Linux: what Linux has to say comes as an event, announced by a signal on the notification that
//! `vfs-proxy` was granted for its client, and fetched with [`COLLECT`].
//! Answers: label [`OK`], or label [`ERROR`] with a Linux error number in word 0.

/// Success.
pub const OK: u64 = 0;
/// Failure; word 0 is a positive Linux error number.
pub const ERROR: u64 = 1;

/// Put a request on the ring. Words: 0 request kind, 1 slot | generation << 32, 2 policy | priority << 16, 3 number, 4–9 arguments,
/// 10 cookie. Answer: word 0 the request's id. If the kind is answered, a [`EVENT_RETURN`] event with the cookie follows, unless
/// [`EVENT_GONE`] for the slot, [`EVENT_RESET`] or the client's own [`FORGET`] ends it before.
/// Errors: ESRCH (Linux has not given out this slot with this generation), EIO (Linux is not there), EAGAIN (too much under way: try
/// again after an event), EINVAL.
///
/// With [`SUBMIT_AGAIN`] in word 0, a client says that it may have made this request before: it is known by slot and cookie, if that is not 0.
pub const SUBMIT: u64 = 1;
/// See [`SUBMIT`].
pub const SUBMIT_AGAIN: u64 = 1 << 32;
/// Fetch events. Words: 0 the number of the newest event that the client will never ask for again, 1 of the newest that it has seen, each with
/// [`NUMBER`], or 0 if there is none. Answer: events after the latter, of [`EVENT_WORDS`] words each, at most [`MAX_EVENTS`]; fewer than that many:
/// no more for now. Events are kept until they are acknowledged by word 0.
pub const COLLECT: u64 = 2;
/// Says that a word of [`COLLECT`] has a number, in the lower half.
pub const NUMBER: u64 = 1 << 32;
/// Interrupt the forwarded call of a thread. Words: 0 slot | generation << 32. Its caller gets EINTR (or the result, if that was first);
/// right before that answer, an [`EVENT_INTERRUPTED`] event is announced. Error ESRCH: the thread is in no forwarded call.
/// Answer: word 0 is 0, or the call's number plus 1 if it was answered at once (no event follows then).
pub const CANCEL: u64 = 3;
/// The thread of a slot is no more: drop its call and the client's calls for it. (EXIT, THREAD_EXIT and UNMAP submitted before
/// are still sent, but not answered.) Words: 0 slot | generation << 32.
pub const FORGET: u64 = 4;
/// A thread may make forwarded calls from now on. Words: 0 slot | generation << 32, 1 policy | priority << 16. Again: the scheduling changed.
pub const ADMIT: u64 = 5;
/// The client is a new instance that knows nothing of what the former one did: all slots that Linux has given out are ended (their proxies
/// by SIGKILL), calls and events of before are dropped. Answer: word 0 is the number of those slots; a [`EVENT_GONE`] event follows for each,
/// unless [`EVENT_RESET`] ends them all. Making it again does no harm.
pub const ABANDON: u64 = 6;

/// Words per event: 0 kind, 1 slot | generation << 32, 2 value, 3 cookie, 4 pid | code << 32, 5 policy | priority << 16 | number << 32,
/// 6 new slot | new generation << 32, 7 request id.
///
/// The number of an event is higher by one (modulo 2³²) than that of the one before it.
pub const EVENT_WORDS: usize = 8;
/// Events in one answer.
pub const MAX_EVENTS: usize = 7;

/// A submitted request was answered.
pub const EVENT_RETURN: u64 = 1;
/// A proxy attached.
pub const EVENT_START: u64 = 2;
/// A signal arrived.
pub const EVENT_SIGNAL: u64 = 3;
/// A worker or proxy is gone.
pub const EVENT_GONE: u64 = 4;
/// Linux was restarted (its epoch changed) or went away: all that was in flight ended with EIO.
pub const EVENT_RESET: u64 = 5;
/// A call that [`CANCEL`] asked to interrupt is being answered. Queued and announced before the answer, so that the client,
/// more urgent than any application, can deliver a signal before the thread goes on. Value: the result; cookie: the call's number.
pub const EVENT_INTERRUPTED: u64 = 6;
