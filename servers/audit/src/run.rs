//! What runs under the kernel.

use rt::{Cap, Frame, ObjectType, Rights, Start, log};

/// In the order in which the report writes them.
const RIGHTS: [(Rights, char); 5] =
    [(Rights::READ, 'r'), (Rights::WRITE, 'w'), (Rights::GRANT, 'g'), (Rights::EXECUTE, 'x'), (Rights::CONTROL, 'c')];

/// The server.
pub fn main(start: Start) -> ! {
    let mut held = 0;
    for slot in 0..start.info.cap_slots {
        let Ok(Some(found)) = Start::CAP_TABLE.identify(slot) else { continue };
        held += 1;
        let rights: alloc::string::String =
            RIGHTS.iter().filter(|(right, _)| found.rights.contains(*right)).map(|(_, letter)| letter).collect();
        let (physical, bytes) = match found.object {
            ObjectType::Frame => Cap::<Frame>::new(slot).info().map_or((0, 0), |info| (info.physical, info.bytes)),
            _ => (0, 0),
        };
        log!("holds {slot} {:?} {rights} {} {physical} {bytes}", found.object, found.badge);
    }
    log!("holds {held} capabilities in all");
    loop {
        // Nobody is meant to signal; if somebody may, it makes no difference.
        let _ = Start::NOTIFICATION.wait(None);
    }
}
