//! Measures fused-loss on this machine and shows it: a live table, pictures, JSON.
//!
//! ```text
//! cargo run --release -p throughput
//! ```
//!
//! What is timed and how: [`timing`], which the criterion benches share.

mod chart;
mod measure;
mod options;
mod pictures;
mod record;
mod rows;
mod scaling;
mod serve;
mod svg;
#[path = "../../timing/mod.rs"]
mod timing;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use fused_loss::Device;

use measure::{Table, measure_beyond};
use options::{Options, Wanted};
use record::Record;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error} (--help lists the options)");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the table has seen enough of it.
        Err(error) if error.downcast_ref().is_some_and(|e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Error> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is far slower without --release");
    }
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let device = match options.device {
        Wanted::Auto => Device::auto(),
        Wanted::Cpu => Device::cpu(),
        Wanted::Cuda => Device::cuda(0)?,
    };
    let table = timing::list::table();
    if options.serve {
        return Ok(serve::serve(&device, &table, std::io::stdin().lock(), std::io::stdout())?);
    }
    let wanted = rows::choose(&table, options, device.is_cuda())?;
    let beyond = rows::choose_beyond(&table, options, device.is_cuda())?;
    // Before the work, so that a file that cannot be written does not cost it; what is in it stays until there is something new.
    for file in [&options.json, &options.csv].into_iter().flatten().filter(|file| file.as_os_str() != "-") {
        std::fs::File::options()
            .append(true)
            .create(true)
            .open(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    std::fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;

    // The table makes room for data.
    let data = [&options.json, &options.csv].into_iter().flatten().any(|file| file.as_os_str() == "-");
    let to: Box<dyn Write> = if data { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    let mut record = Record::new(&device);
    let mut out = Table::new(to, wanted.len() + beyond.len() * options.dtypes.len());
    out.say(&format!("{}: {}", record.device, device.reason()))?;
    out.say(&record.small_print())?;
    out.say(
        "time: the median call, forward + backward, mean reduction; bytes: the fewest it can move; copy: of the input,",
    )?;
    out.say("in turn with the calls, its bytes read and written\n")?;
    out.header()?;
    for (case, dims, dtype) in &wanted {
        if let Some(row) = out.measure(&device, case, *dims, *dtype, options.seconds)? {
            record.rows.push(row);
        }
    }
    for beyond in beyond {
        for &dtype in &options.dtypes {
            let measure = || measure_beyond(beyond, dtype, options.seconds);
            record.rows.extend(out.row(beyond.name(), beyond.shape(), dtype, measure)?);
        }
    }
    if options.scaling {
        record.scaling = scaling::run(&device, &table, options, &mut out)?;
        record.in_graph = scaling::in_graph(&device, &table, &mut out)?;
    }
    out.end()?;
    write(&options.json, &record.json())?;
    write(&options.csv, &record.csv())?;
    let names = pictures::draw(&record, &options.out)?;
    if !names.is_empty() {
        out.say(&format!("\npictures in {}: {}", options.out.display(), names.join(", ")))?;
    }
    if record.rows.is_empty() { Err("no row could be measured".into()) } else { Ok(()) }
}

fn write(file: &Option<std::path::PathBuf>, text: &str) -> Result<(), Error> {
    match file {
        None => Ok(()),
        Some(file) if file.as_os_str() == "-" => Ok(std::io::stdout().write_all(text.as_bytes())?),
        Some(file) => Ok(std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?),
    }
}
