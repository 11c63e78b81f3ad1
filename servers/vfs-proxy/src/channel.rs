//! What the bookkeeping needs of the world: the rings, the peer, the callers and the client.

use ipc::shadow::{Request, Response};

/// The world. Whatever comes from Linux's memory may be anything, and may change between two reads.
pub trait Channel {
    /// The epoch of a Linux side that says it is there and speaks our version.
    fn peer(&self) -> Option<u32>;
    /// Requests that Linux says it has consumed.
    fn request_head(&self) -> u32;
    /// Responses that Linux says it has produced.
    fn response_tail(&self) -> u32;
    /// The response at this free-running index.
    fn response(&self, index: u32) -> Response;
    /// The request at this free-running index, in our own section.
    fn request(&self, index: u32) -> Request;
    /// Puts a request at this free-running index.
    fn put_request(&mut self, index: u32, request: &Request);
    /// Requests produced, in our own section.
    fn request_tail(&self) -> u32;
    /// Publishes the requests before this index.
    fn set_request_tail(&mut self, tail: u32);
    /// Responses consumed, in our own section.
    fn response_head(&self) -> u32;
    /// Publishes how many responses were consumed.
    fn set_response_head(&mut self, head: u32);
    /// Tells Linux to look.
    fn doorbell(&mut self);
    /// Answers the caller kept in this Reply with the result of its call.
    fn answer(&mut self, reply: u32, value: i64);
    /// Tells the client that events wait.
    fn signal(&mut self);
    /// A response was not valid, and dropped.
    fn dropped(&mut self);
}
