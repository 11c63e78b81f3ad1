//! The composer as a command: `compose MANIFEST --kernel ELF --servers DIR -o OUT`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use image::BuildInputs;

/// Builds the image and the cell configuration that a manifest describes.
#[derive(Parser)]
struct Arguments {
    /// The manifest.
    manifest: PathBuf,
    /// The kernel, as linked.
    #[arg(long)]
    kernel: PathBuf,
    /// The directory that holds the servers' programs.
    #[arg(long)]
    servers: PathBuf,
    /// Where the results go.
    #[arg(short, long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let inputs = BuildInputs {
        kernel_elf: arguments.kernel,
        servers_dir: arguments.servers,
        out_dir: arguments.output,
        machine: None,
    };
    match image::build(&arguments.manifest, &inputs) {
        Ok(built) => {
            let id: String = built.build_id[..8].iter().map(|b| format!("{b:02x}")).collect();
            println!("{}: {} bytes, build {id}", built.bin.display(), built.size);
            ExitCode::SUCCESS
        }
        Err(diagnostics) => {
            eprintln!("{diagnostics}");
            ExitCode::FAILURE
        }
    }
}
