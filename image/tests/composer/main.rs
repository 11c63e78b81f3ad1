//! The composer as its users see it: manifests and programs in, images or sentences out.

mod build;
mod common;
mod hostile;
mod machine;
mod new;
mod programs;
mod reject;
mod schema;
