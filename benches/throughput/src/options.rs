//! The command line.

use std::path::PathBuf;

use crate::timing::Dtype;

pub const USAGE: &str = "\
Measures fused-loss on this machine: GB/s of every loss, and its share of a copy.

    cargo run --release -p throughput -- [OPTIONS]

    --device auto|cpu|cuda  where (default: auto, the GPU where there is one)
    --loss NAME[,NAME]      these losses only, by the beginning of their names
    --dtype f32,f16,bf16    these storage types only
    --size SIZE             N, ROWSxCLASSES or NxCLASSESxINNER; 2^24 is a number, too
    --full                  every loss at every shape, not one of each family
    --scaling               also cost against size, classes and threads, and inside a CUDA graph
    --seconds S             for each row (default: 0.5)
    --threads N             threads of the CPU (default: as many as it has)
    --out DIR               where the pictures go (default: out/throughput)
    --json FILE             everything as JSON (-: to standard output)
    --csv FILE              the table as CSV (-: to standard output)
    --serve                 answers requests on standard input, a line of JSON each";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub device: Wanted,
    /// All if it is empty.
    pub losses: Vec<String>,
    pub dtypes: Vec<Dtype>,
    pub size: Option<Vec<usize>>,
    pub full: bool,
    pub scaling: bool,
    pub seconds: f64,
    pub threads: Option<usize>,
    pub out: PathBuf,
    pub json: Option<PathBuf>,
    pub csv: Option<PathBuf>,
    pub serve: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: Wanted::Auto,
            losses: Vec::new(),
            dtypes: Dtype::ALL.into(),
            size: None,
            full: false,
            scaling: false,
            seconds: 0.5,
            threads: None,
            out: "out/throughput".into(),
            json: None,
            csv: None,
            serve: false,
        }
    }
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Options::default();
        while let Some(arg) = args.next() {
            let mut value = |what: &str| args.next().ok_or(format!("{arg} needs {what}"));
            match arg.as_str() {
                "--device" => {
                    options.device = match value("auto, cpu or cuda")?.as_str() {
                        "auto" => Wanted::Auto,
                        "cpu" => Wanted::Cpu,
                        "cuda" => Wanted::Cuda,
                        other => return Err(format!("--device is auto, cpu or cuda, not '{other}'")),
                    }
                }
                "--loss" => options.losses = split_names(&value("the names of losses")?),
                "--dtype" => {
                    let names = value("f32, f16 or bf16")?;
                    options.dtypes = names.split(',').map(dtype).collect::<Result<_, _>>()?;
                }
                "--size" => options.size = Some(size(&value("a size")?)?),
                "--seconds" => {
                    let seconds = value("a number")?;
                    let parsed = seconds.parse().ok().filter(|s| (0.001..=3600.0).contains(s));
                    options.seconds =
                        parsed.ok_or(format!("--seconds needs a number from 0.001 to 3600, not '{seconds}'"))?;
                }
                "--threads" => {
                    let threads = value("a number")?;
                    let parsed = threads.parse().ok().filter(|n| (1..=4096).contains(n));
                    options.threads =
                        Some(parsed.ok_or(format!("--threads needs a number from 1 to 4096, not '{threads}'"))?);
                }
                "--out" => options.out = value("a directory")?.into(),
                "--json" => options.json = Some(value("a file")?.into()),
                "--csv" => options.csv = Some(value("a file")?.into()),
                "--full" => options.full = true,
                "--scaling" => options.scaling = true,
                "--serve" => options.serve = true,
                "--help" | "-h" => return Ok(None),
                other => return Err(format!("unknown option '{other}'")),
            }
        }
        let stdout = |file: &Option<PathBuf>| file.as_ref().is_some_and(|file| file.as_os_str() == "-");
        if stdout(&options.json) && stdout(&options.csv) {
            return Err("--json and --csv cannot both go to standard output".into());
        }
        Ok(Some(options))
    }
}

pub fn dtype(name: &str) -> Result<Dtype, String> {
    let known = Dtype::ALL.into_iter().find(|dtype| dtype.name() == name);
    known.ok_or(format!("a storage type is f32, f16 or bf16, not '{name}'"))
}

/// At commas outside of brackets: some names have a comma in theirs.
fn split_names(names: &str) -> Vec<String> {
    let mut split = vec![String::new()];
    let mut depth = 0;
    for letter in names.chars() {
        depth += i32::from(letter == '[') - i32::from(letter == ']');
        match letter {
            ',' if depth <= 0 => split.push(String::new()),
            _ => split.last_mut().expect("there is one").push(letter),
        }
    }
    split
}

/// `N`, `RxC` or `NxCxS`.
fn size(size: &str) -> Result<Vec<usize>, String> {
    let number = |text: &str| match text.strip_prefix("2^") {
        Some(power) => power.parse().ok().filter(|&power: &u32| power < 48).map(|power| 1usize << power),
        None => text.parse().ok().filter(|&n| n > 0),
    };
    let parsed: Option<Vec<usize>> = size.split('x').map(number).collect();
    let parsed = parsed.filter(|parts| parts.len() <= 3);
    parsed.ok_or(format!("--size needs N, ROWSxCLASSES or NxCLASSESxINNER, not '{size}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn nothing_means_the_defaults() {
        assert_eq!(parse("").unwrap().unwrap(), Options::default());
    }

    #[test]
    fn every_option_is_understood() {
        let line = "--device cpu --loss mse,tversky[0.3,0.7],bce --dtype bf16,f32 --size 4x2^10x7 --full --scaling \
                    --seconds 0.25 --threads 3 --out o --json j --csv - --serve";
        let options = parse(line).unwrap().unwrap();
        let expected = Options {
            device: Wanted::Cpu,
            losses: ["mse", "tversky[0.3,0.7]", "bce"].map(String::from).into(),
            dtypes: vec![Dtype::Bf16, Dtype::F32],
            size: Some(vec![4, 1024, 7]),
            full: true,
            scaling: true,
            seconds: 0.25,
            threads: Some(3),
            out: "o".into(),
            json: Some("j".into()),
            csv: Some("-".into()),
            serve: true,
        };
        assert_eq!(options, expected);
        assert_eq!(parse("--seconds 1 --help").unwrap(), None);
    }

    #[test]
    fn nonsense_is_an_error_that_names_it() {
        for (line, named) in [
            ("--frobnicate", "'--frobnicate'"),
            ("--device tpu", "'tpu'"),
            ("--dtype f32,f64", "'f64'"),
            ("--size 4x", "'4x'"),
            ("--size 0", "'0'"),
            ("--size 1x2x3x4", "'1x2x3x4'"),
            ("--size 2^99", "'2^99'"),
            ("--seconds nan", "'nan'"),
            ("--seconds -1", "'-1'"),
            ("--threads 0", "'0'"),
            ("--threads", "--threads needs a number"),
            ("--json - --csv -", "standard output"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(named) && !error.contains('\n'), "{line}: {error}");
        }
    }
}
