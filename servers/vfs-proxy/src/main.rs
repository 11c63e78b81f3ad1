//! Entry.
#![cfg_attr(target_os = "none", no_std, no_main)]

rt::entry!(server);

#[cfg(target_os = "none")]
fn server(start: rt::Start) -> ! {
    rt::log!("generation {}", start.info.generation);
    panic!("nothing yet");
}
