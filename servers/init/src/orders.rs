//! Orders from Linux: three words that may be anything.

use ipc::board::{INIT, WAYS, order};

/// An order that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take the server as crashed.
    Kill(usize),
    /// Replace it whatever its policy.
    Restart(usize),
    /// Make it crash by itself: server, way.
    Crash(usize, usize),
    /// The same for init: way.
    CrashInit(usize),
}

impl Order {
    /// What the words say, in a system of so many servers.
    pub fn parse(verb: u32, server: u32, argument: u32, servers: usize) -> Option<Order> {
        let way = usize::try_from(argument).ok().filter(|way| *way < WAYS.len());
        if (verb, server) == (order::CRASH, INIT) {
            return way.map(Order::CrashInit);
        }
        let server = usize::try_from(server).ok().filter(|server| *server < servers)?;
        match verb {
            order::KILL => Some(Order::Kill(server)),
            order::RESTART => Some(Order::Restart(server)),
            order::CRASH => way.map(|way| Order::Crash(server, way)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_sense_is_an_order() {
        assert_eq!(Order::parse(order::KILL, 1, 99, 2), Some(Order::Kill(1)));
        assert_eq!(Order::parse(order::RESTART, 0, 0, 2), Some(Order::Restart(0)));
        assert_eq!(Order::parse(order::CRASH, 0, 9, 2), Some(Order::Crash(0, 9)));
        assert_eq!(Order::parse(order::CRASH, INIT, 0, 2), Some(Order::CrashInit(0)));
        assert_eq!(Order::parse(order::KILL, INIT, 0, 2), None);
        for (verb, server, argument) in
            [(order::KILL, 2, 0), (order::CRASH, 0, 10), (0, 0, 0), (4, 0, 0), (1, u32::MAX, 0)]
        {
            assert_eq!(Order::parse(verb, server, argument, 2), None);
        }
    }
}
