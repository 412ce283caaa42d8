//! The kernel of a loss that the user wrote: the text around theirs, which makes it a file like those of `kernels/`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A loss of the user's.
pub struct Definition {
    /// The loss, as its author calls it.
    pub loss: &'static str,
    /// What its file and its kernels are called.
    pub file: &'static str,
    /// The file, unless the loss has no text for CUDA.
    pub source: Option<String>,
}

/// All of them, by file. None is ever dropped: kernels, like losses, are plain values that outlive everything.
static DEFINITIONS: Mutex<Option<HashMap<&'static str, &'static Definition>>> = Mutex::new(None);

/// The definition with this name, these options and this text: one, however often it is asked for.
pub(crate) fn define(loss: &'static str, options: &[&str], text: Option<&str>) -> &'static Definition {
    let mut definitions = DEFINITIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let definitions = definitions.get_or_insert_default();
    let mut file = format!("custom_{:016x}", hash(&[loss, &options.join(","), text.unwrap_or_default()]));
    loop {
        let source = text.map(|text| source(&file, loss, options, text));
        match definitions.get(&*file) {
            Some(known) if known.loss == loss && known.source == source => return known,
            Some(_) => file.push('_'), // two of one hash
            None => {
                let file: &'static str = file.leak();
                return definitions.entry(file).or_insert(Box::leak(Box::new(Definition { loss, file, source })));
            }
        }
    }
}

/// The definition with this file, if it is one.
pub fn of_file(file: &str) -> Option<&'static Definition> {
    DEFINITIONS.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(file).copied()
}

/// The whole file. The lines of the text are counted as its author does, also in what the compiler says. All names have the file's in
/// them: where many losses are linked together, none is taken for another.
fn source(file: &str, loss: &str, options: &[&str], text: &str) -> String {
    let list = |each: &dyn Fn(&str) -> String| options.iter().map(|option| each(option)).collect::<String>();
    let fields = if options.is_empty() { "uint32_t unused; ".into() } else { list(&|o| format!("float {o}; ")) };
    let locals = list(&|o| format!("        [[maybe_unused]] const float {o} = this->p.{o};\n"));
    format!(
        r#"#include "skeleton/elementwise.cuh"

struct {file}_params {{ {fields}}};

struct {file} : fl::Pointwise {{
    {file}_params p;

    FL fl::Point eval(const float x, const float t, float) const {{
{locals}        float value = fl::nan(), grad = fl::nan();
        {{
#line 1 "{loss}"
{text}
        }}
        return {{value, grad}};
    }}
}};

FL_ELEMENTWISE({file}, {file}, {file}_params)
"#
    )
}

/// FNV-1a: the same on every machine and in every version of Rust.
pub(crate) fn hash(texts: &[impl AsRef<[u8]>]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.as_ref());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
