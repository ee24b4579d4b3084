//! The pickle of a state dict, as `torch.save` writes it, read without executing anything.
//!
//! It understands only what describes tensors: strings, integers, tuples, storages (persistent ids) and
//! the functions that make tensors of storages. The value of every other call is ignored. Memory
//! is bounded: values that the memo repeats are shared, texts among them, and their number is limited.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::fault::Fault;
use super::pickle_reader::Reader;
use super::stored_tensor::{StoredTensor, Tensors};

/// The most values of a pickle that take memory: a model has about ten for each tensor.
const MOST_VALUES: usize = 1 << 19;
/// The most instructions: each may remember a value or put a number onto the stack, which takes little memory,
/// but some.
const MOST_INSTRUCTIONS: usize = 1 << 20;
/// The deepest nesting of tuples in a state dict. Dropping a value recurses, so more is refused.
const DEEPEST: usize = 32;
/// The longest name of a storage, class or function: names are copied whenever they are used.
const LONGEST: usize = 256;
/// The most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// The modules of the classes and functions in a state dict.
const KNOWN_MODULES: [&str; 8] = [
    "__builtin__",
    "_codecs",
    "builtins",
    "collections",
    "torch",
    "torch._tensor",
    "torch._utils",
    "torch.nn.parameter",
];

#[derive(Clone)]
enum Value {
    Int(i64),
    Text(Arc<str>),
    /// `module name`.
    Function(Arc<str>),
    Tuple(Rc<Tuple>),
    /// The tuple that identifies a storage.
    Storage(Rc<Tuple>),
    Tensor(Arc<StoredTensor>),
    Dict(Rc<RefCell<Dict>>),
    Ignored,
}

#[derive(Default)]
struct Dict {
    tensors: Tensors,
    /// The first key whose value is a dict of tensors.
    inner: Option<Arc<str>>,
}

struct Tuple {
    depth: usize,
    items: Vec<Value>,
}

type Result<T> = std::result::Result<T, Fault>;

/// What a state dict's pickle says.
pub(crate) struct StateDict {
    pub(crate) tensors: Tensors,
    /// The classes of all storages by their names.
    pub(super) classes: HashMap<Arc<str>, Arc<str>>,
    /// The bytes of the pickle.
    pub(super) length: usize,
}

/// Reads the pickle of a state dict.
pub(crate) fn state_dict(pickle: &[u8]) -> Result<StateDict> {
    let mut machine = Machine::default();
    let whole_model = |machine: &Machine| {
        let class = machine.class.as_deref()?.replace(' ', ".");
        let expected = "model.state_dict(), if that is a model".to_owned();
        Some(Fault::NoStateDict { found: format!("what {class} makes"), expected })
    };
    let length = match machine.run(pickle) {
        Err(Fault::Damaged(reason)) => {
            return Err(whole_model(&machine).unwrap_or(Fault::Damaged(reason)));
        }
        length => length?,
    };
    let Value::Dict(dict) = machine.pop()? else {
        let (found, expected) = ("something else".to_owned(), "model.state_dict()".to_owned());
        return Err(whole_model(&machine).unwrap_or(Fault::NoStateDict { found, expected }));
    };
    let Dict { tensors, inner } = dict.take();
    match inner.filter(|_| tensors.is_empty()) {
        Some(key) => Err(Fault::NoStateDict {
            found: format!("a dict that has one under {key:?}"),
            expected: format!("torch.load(FILE)[{key:?}]"),
        }),
        None => Ok(StateDict { tensors, classes: machine.classes, length }),
    }
}

/// All texts of a pickle in their order, and its length.
pub(crate) fn texts(pickle: &[u8]) -> Result<(Vec<Arc<str>>, usize)> {
    let mut machine = Machine::default();
    let length = machine.run(pickle)?;
    Ok((machine.texts, length))
}

#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    /// The heights of the stack at its `MARK`s.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    texts: Vec<Arc<str>>,
    /// The first class or function that no state dict has: `module name`.
    class: Option<Arc<str>>,
    /// The classes of the storages.
    classes: HashMap<Arc<str>, Arc<str>>,
    /// How many values that take memory were put onto the stack.
    values: usize,
    instructions: usize,
}

impl Machine {
    /// Executes a pickle. Returns its length.
    fn run(&mut self, pickle: &[u8]) -> Result<usize> {
        let mut reader = Reader { rest: pickle };
        loop {
            match reader.byte()? {
                b'.' => return Ok(pickle.len() - reader.rest.len()),
                code => self.step(code, &mut reader)?,
            }
        }
    }

    /// Executes one instruction. The codes are those of Python's `pickletools`.
    fn step(&mut self, code: u8, reader: &mut Reader) -> Result<()> {
        self.instructions += 1;
        if self.instructions > MOST_INSTRUCTIONS {
            return Err("its pickle has more instructions than any model".into());
        }
        let value = match code {
            0x80 => return reader.bytes(1).map(drop), // PROTO
            0x95 => return reader.bytes(8).map(drop), // FRAME
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            // POP; APPEND to a list that is ignored; BUILD: attributes of a dict, of no interest.
            b'0' | b'a' | b'b' => return self.pop().map(drop),
            b'N' | 0x88 | 0x89 | b']' => Value::Ignored, // None, True, False, []
            b'K' => Value::Int(reader.unsigned(1)? as i64),
            b'M' => Value::Int(reader.unsigned(2)? as i64),
            b'J' => Value::Int(i64::from(reader.unsigned(4)? as u32 as i32)),
            b'G' => reader.bytes(8).map(|_| Value::Ignored)?, // BINFLOAT
            0x8a => reader.long()?.map_or(Value::Ignored, Value::Int),
            // Texts, and the byte strings of Python 2.
            b'X' | b'T' => self.text(reader.text(4)?),
            0x8c | b'U' => self.text(reader.text(1)?),
            // Byte strings.
            b'B' => reader.skip(4).map(|()| Value::Ignored)?,
            b'C' => reader.skip(1).map(|()| Value::Ignored)?,
            b'}' => Value::Dict(Rc::default()),
            b')' => tuple(Vec::new())?,
            0x85..=0x87 => {
                let at = self.stack.len().checked_sub(usize::from(code - 0x84));
                tuple(self.stack.split_off(at.ok_or("its pickle's stack is empty")?))?
            }
            b't' => tuple(self.pop_to_mark()?)?,
            b'q' => return self.remember(reader.unsigned(1)?),
            b'r' => return self.remember(reader.unsigned(4)?),
            0x94 => return self.remember(self.memo.len() as u64),
            b'h' => self.recall(reader.unsigned(1)?)?,
            b'j' => self.recall(reader.unsigned(4)?)?,
            b'c' => self.function(&reader.line()?, &reader.line()?)?,
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.function(&module, &name)?,
                _ => return Err("its pickle has a class whose name is not text".into()),
            },
            b'Q' => match self.pop()? {
                Value::Tuple(id) => {
                    if let [_, Value::Function(class), Value::Text(storage), ..] = &*id.items {
                        self.classes.insert(storage.clone(), class.clone());
                    }
                    Value::Storage(id)
                }
                _ => return Err("its pickle has a storage without an id".into()),
            },
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                call(&function, &arguments)?
            }
            b'e' => return self.pop_to_mark().map(drop),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.set_items(&[key, value]);
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                return self.set_items(&items);
            }
            other => {
                let reason = format!("its pickle has the instruction {other:#04x}");
                return Err(format!("{reason}, which no state dict needs").into());
            }
        };
        self.values += usize::from(!matches!(value, Value::Int(_) | Value::Ignored));
        if self.values > MOST_VALUES {
            return Err("its pickle has more values than any model".into());
        }
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, text: Arc<str>) -> Value {
        self.texts.push(text.clone());
        Value::Text(text)
    }

    fn function(&mut self, module: &str, name: &str) -> Result<Value> {
        let function: Arc<str> = format!("{} {}", short(module)?, short(name)?).into();
        if !KNOWN_MODULES.contains(&module) {
            self.class.get_or_insert(function.clone());
        }
        Ok(Value::Function(function))
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| "its pickle's stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => Err("its pickle's marks are broken".into()),
        }
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let value = self.stack.last().ok_or("its pickle's stack is empty")?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&self, key: u64) -> Result<Value> {
        let value = self.memo.get(&key);
        Ok(value.ok_or("its pickle refers to a value that it has not stored")?.clone())
    }

    /// Adds keys and values, in turns, to the dict below them.
    fn set_items(&self, items: &[Value]) -> Result<()> {
        let Some(Value::Dict(dict)) = self.stack.last() else { return Ok(()) };
        for pair in items.chunks_exact(2) {
            match (&pair[0], &pair[1]) {
                (Value::Text(name), Value::Tensor(tensor)) => {
                    let tensors = &mut dict.borrow_mut().tensors;
                    if tensors.insert(name.clone(), tensor.clone()).is_some() {
                        return Err(format!("it contains {name} twice").into());
                    }
                }
                // A dict may hold itself.
                (Value::Text(name), Value::Dict(inner))
                    if !Rc::ptr_eq(dict, inner) && !inner.borrow().tensors.is_empty() =>
                {
                    dict.borrow_mut().inner.get_or_insert(name.clone());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn tuple(items: Vec<Value>) -> Result<Value> {
    let inner = items.iter().map(|item| match item {
        Value::Tuple(tuple) | Value::Storage(tuple) => tuple.depth,
        _ => 0,
    });
    let depth = 1 + inner.max().unwrap_or(0);
    if depth > DEEPEST {
        return Err("its pickle nests tuples deeper than a state dict does".into());
    }
    Ok(Value::Tuple(Rc::new(Tuple { depth, items })))
}

/// Calls a function of a state dict. The value of any other function is ignored.
fn call(function: &Value, arguments: &Value) -> Result<Value> {
    let (Value::Function(function), Value::Tuple(arguments)) = (function, arguments) else {
        return Ok(Value::Ignored);
    };
    match (&**function, arguments.items.as_slice()) {
        ("collections OrderedDict", []) => Ok(Value::Dict(Rc::default())),
        (
            "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state",
            [tensor, ..],
        ) => Ok(tensor.clone()),
        ("torch._utils _rebuild_tensor_v2", arguments) => tensor(arguments),
        // A tensor with attributes, or of a class of its own.
        ("torch._tensor _rebuild_from_type_v2", [function, _, arguments, ..]) => {
            call(function, arguments)
        }
        _ => Ok(Value::Ignored),
    }
}

fn tensor(arguments: &[Value]) -> Result<Value> {
    let [
        Value::Storage(id),
        offset @ Value::Int(_),
        Value::Tuple(shape),
        Value::Tuple(strides),
        rest @ ..,
    ] = arguments
    else {
        return Err("its pickle has a broken tensor".into());
    };
    // After whether it learns, and its hooks: that it is negated, or conjugated.
    if rest.len() > 2 {
        return Err("a tensor in it is negated or conjugated; save a copy of it".into());
    }
    match id.items.as_slice() {
        [Value::Text(kind), Value::Function(class), Value::Text(storage), view @ ..]
            if &**kind == "storage" =>
        {
            // Before PyTorch 1.6 a storage could be a part of another one.
            let start = match view.get(2) {
                Some(Value::Tuple(view)) => view.items.get(1).map_or(Ok(0), size)?,
                _ => 0,
            };
            let offset = size(offset)?.checked_add(start);

            if shape.items.len().max(strides.items.len()) > MOST_DIMENSIONS {
                return Err("a tensor in it has too many dimensions".into());
            }
            Ok(Value::Tensor(Arc::new(StoredTensor {
                storage: short(storage).map(|_| storage.clone())?,
                class: class.clone(),
                offset: offset.ok_or("a tensor in it begins beyond its storage")?,
                shape: shape.items.iter().map(size).collect::<Result<_>>()?,
                strides: strides.items.iter().map(size).collect::<Result<_>>()?,
            })))
        }
        _ => Err("its pickle has a storage of another kind".into()),
    }
}

fn short(name: &str) -> Result<&str> {
    if name.len() <= LONGEST { Ok(name) } else { Err("it has a name that is too long".into()) }
}

fn size(value: &Value) -> Result<usize> {
    match value {
        Value::Int(size) => {
            usize::try_from(*size).map_err(|_| format!("a tensor in it has the size {size}").into())
        }
        _ => Err("a tensor in it has a size that is not an integer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_take_little_memory_are_limited_too() {
        // Remembered, on the stack, and marks.
        for code in [&b"\x94"[..], b"N", b"K\x01", b"("] {
            let pickle = [b"\x80\x04N", &code.repeat(2 * MOST_INSTRUCTIONS)[..]].concat();
            let Err(Fault::Damaged(reason)) = state_dict(&pickle) else { panic!("{code:?}") };
            assert!(reason.contains("more instructions"), "{reason}");
        }
    }
}
