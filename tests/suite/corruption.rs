//! Damaged files give typed errors: no panic, no memory without bound.

use std::path::Path;

use bert::*;
use rand::{Rng, SeedableRng};

use crate::support::*;

/// What loading a folder with this weights file gives.
fn load(folder: &Path, config: &Path, file: &str, bytes: &[u8]) -> Result<BertForPreTraining> {
    std::fs::copy(config.join("config.json"), folder.join("config.json")).unwrap();
    std::fs::write(folder.join(file), bytes).unwrap();
    let model = BertForPreTraining::from_pretrained(folder, &LoadOptions::new());
    std::fs::remove_file(folder.join(file)).unwrap();
    model
}

/// Peak resident memory of this process in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Fails when this process ever took more memory than the suite needs for its small files.
pub fn assert_little_memory() {
    // Other tests of this process have texts of ten megabytes.
    let most = 300 << 20;
    assert!(peak_memory().is_none_or(|bytes| bytes < most), "{:?} bytes", peak_memory());
}

/// Damages a file in every way below and counts how often it was refused.
///
/// A changed number cannot be told from another number in a format without checksums, so what
/// still loads must be of the right shape. Errors must be ours, not Candle's.
fn damage(
    source: &Path,
    file: &str,
    boundaries: &[usize],
    must_fail: impl Fn(usize) -> bool,
) -> (usize, usize) {
    let whole = std::fs::read(source.join(file)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (mut tried, mut refused) = (0, 0);
    let mut check = |bytes: &[u8], certain: bool| {
        tried += 1;
        match load(folder.path(), source, file, bytes) {
            Ok(model) => {
                assert!(!certain, "a damaged file was taken for a whole one");
                let output = model.forward(&BertInput::from_ids(ids(&[&[1, 2]]))).unwrap();
                assert_eq!(output.prediction_logits.dims(), [1, 2, 60]);
            }
            Err(Error::Candle(error)) => panic!("an untyped error: {error}"),
            Err(_) => refused += 1,
        }
    };
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for boundary in boundaries {
        for length in [boundary.saturating_sub(1), *boundary, boundary + 1] {
            if length < whole.len() {
                check(&whole[..length], true);
            }
        }
    }
    for _ in 0..60 {
        let length = random.random_range(0..whole.len());
        check(&whole[..length], true);
    }
    for _ in 0..120 {
        let (at, bit) = (random.random_range(0..whole.len()), random.random_range(0..8));
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        check(&bytes, must_fail(at));
    }
    // The beginning and the end hold the structure of both formats.
    for at in (0..400.min(whole.len())).step_by(7).chain(whole.len() - 400..whole.len()).step_by(5)
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        check(&bytes, must_fail(at));
        bytes[at] = 0xff;
        check(&bytes, false);
    }
    (tried, refused)
}

#[test]
fn damaged_safetensors_files_are_refused_without_panic_or_memory() {
    let folder = fixture("files/safetensors");
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let ends = fields.values().filter_map(|field| field["data_offsets"][1].as_u64());
    let mut boundaries: Vec<usize> = ends.map(|end| 8 + header + end as usize).collect();
    boundaries.extend([0, 8, 8 + header]);
    assert!(boundaries.len() > 25);
    let (tried, refused) = damage(&folder, "model.safetensors", &boundaries, |at| at < 8);
    assert!(tried > 200 && refused > 100, "{refused} of {tried}");
    assert_little_memory();
}

#[test]
fn damaged_torch_files_are_refused_without_panic_or_memory() {
    let folder = fixture("files/bin");
    let file = std::fs::File::open(folder.join("pytorch_model.bin")).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    let (mut boundaries, mut guarded) = (Vec::new(), Vec::new());
    for i in 0..archive.len() {
        let entry = archive.by_index(i).unwrap();
        let (start, size) = (entry.data_start().unwrap() as usize, entry.size() as usize);
        boundaries.extend([entry.header_start() as usize, start, start + size]);
        let name = entry.name().unwrap().into_owned();
        // The word embeddings are the first storage; every checksum that is read is compared.
        if name.ends_with("data.pkl") || name.ends_with("data/0") {
            guarded.push(start..start + size);
        }
    }
    assert_eq!(guarded.len(), 2);
    let guarded = |at| guarded.iter().any(|range| range.contains(&at));
    let (tried, refused) = damage(&folder, "pytorch_model.bin", &boundaries, guarded);
    assert!(tried > 200 && refused > 150, "{refused} of {tried}");
    assert_little_memory();
}

#[test]
fn damaged_files_of_before_pytorch_1_6_are_refused_without_panic_or_memory() {
    let folder = fixture("files/bin_before_1.6");
    let length = std::fs::metadata(folder.join("pytorch_model.bin")).unwrap().len() as usize;
    // The last storage is that of the buffer of positions: 24 integers after their number.
    let boundaries = [0, 2, 27, length - 24 * 8 - 8, length - 24 * 8, length];
    let (tried, refused) = damage(&folder, "pytorch_model.bin", &boundaries, |at| at < 27);
    assert!(tried > 200 && refused > 100, "{refused} of {tried}");
    let mut bytes = std::fs::read(folder.join("pytorch_model.bin")).unwrap();
    // A storage that says it is larger than the file.
    bytes[length - 24 * 8 - 8..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let folder_of_lies = tempfile::tempdir().unwrap();
    let error = load(folder_of_lies.path(), &folder, "pytorch_model.bin", &bytes).unwrap_err();
    assert_says(&error, &["reaches beyond its end"]);
    assert_little_memory();
}

/// A safetensors file of this header and this many bytes of tensors.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let f32 = |name: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let word = "bert.embeddings.word_embeddings.weight";
    for (tensors, data) in [
        (f32(word, "[60,16]", "[0,16]"), 16),
        (f32(word, "[60,16]", "[0,3840]"), 3839),
        (f32(word, "[60,16]", "[8,3848]"), 3848),
        (f32(word, "[60,16]", "[3840,0]"), 3840),
        (f32(word, "[4294967296,4294967296]", "[0,16]"), 16),
        (f32(word, "[18446744073709551615]", "[0,16]"), 16),
        (f32(word, "[60,16]", "[0,18446744073709551615]"), 16),
        (format!("{},{}", f32("a", "[2]", "[0,8]"), f32("b", "[2]", "[4,12]")), 12),
        (format!("{},{}", f32(word, "[2]", "[0,8]"), f32(word, "[2]", "[8,16]")), 16),
        (r#""a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}"#.to_owned(), 8),
        (r#""a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#.to_owned(), 8),
        (r#""a":{"dtype":"F32","shape":[2]}"#.to_owned(), 8),
        (r#""a":3"#.to_owned(), 0),
    ] {
        let bytes = safetensors(&format!("{{{tensors}}}"), data);
        let error = load(folder.path(), &fixture("files/safetensors"), "model.safetensors", &bytes);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Safetensors { .. }), "{tensors}: {error}");
    }
    let deep = "[".repeat(100_000);
    let bytes = safetensors(&deep, 0);
    let error = load(folder.path(), &fixture("files/safetensors"), "model.safetensors", &bytes);
    assert!(matches!(error.unwrap_err(), Error::Safetensors { .. }));
}

#[test]
fn hostile_torch_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let archive = |entries: &[(&str, Vec<u8>, u16)]| {
        let mut zip = support_zip::Writer::default();
        for (name, bytes, method) in entries {
            zip.add(name, bytes, *method);
        }
        zip.finish()
    };
    let pickle = |body: &[u8]| [b"\x80\x02", body].concat();
    let nested = [vec![b')'], vec![0x85; 100_000], vec![b'.']].concat();
    // Each line doubles what the memo holds: a terabyte, if it were copied.
    let laughs: Vec<u8> = [vec![b')']]
        .into_iter()
        .chain((0..40).map(|i| vec![b'q', i, b'h', i, 0x86]))
        .chain([vec![b'.']])
        .flatten()
        .collect();
    // A storage with a name of half a megabyte, which every tensor would copy.
    let name = "x".repeat(500_000);
    let endless_names = [
        b"c" as &[u8],
        b"torch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX",
        &(name.len() as u32).to_le_bytes(),
        name.as_bytes(),
        b"X\x03\x00\x00\x00cpuK\x01tQK\x00)))tR.",
    ]
    .concat();
    let call = b"cos\nsystem\n(X\x04\x00\x00\x00exit" as &[u8];
    for (entries, part) in [
        (vec![], "no data.pkl"),
        (vec![("a/data.pkl", vec![], 0)], "ends early"),
        (vec![("a/data.pkl", vec![], 0), ("b/data.pkl", vec![], 0)], "more than one data.pkl"),
        (vec![("a/data.pkl", pickle(b"."), 0)], "stack is empty"),
        (vec![("a/data.pkl", pickle(b")."), 0)], "not a state dict"),
        (vec![("a/data.pkl", pickle(&nested), 0)], "deeper"),
        (vec![("a/data.pkl", pickle(&laughs), 0)], "deeper"),
        (vec![("a/data.pkl", pickle(&[call, b"tR."].concat()), 0)], "not a state dict"),
        (vec![("a/data.pkl", pickle(b"h\x07."), 0)], "not stored"),
        (vec![("a/data.pkl", pickle(b"i"), 0)], "instruction 0x69"),
        (vec![("a/data.pkl", pickle(b"X\xff\xff\xff\xff"), 0)], "ends early"),
        (vec![("a/byteorder", b"big".to_vec(), 0), ("a/data.pkl", vec![], 0)], "little-endian"),
        (vec![("a/data.pkl", pickle(&endless_names), 0)], "name that is too long"),
        // Method 8 is deflate, which is how a small file becomes a large one.
        (vec![("a/data.pkl", vec![0; 10], 8)], "compressed"),
    ] {
        let bytes = archive(&entries);
        let error = load(folder.path(), &fixture("files/bin"), "pytorch_model.bin", &bytes);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::TorchFile { .. } | Error::NoStateDict { .. }), "{error}");
        assert_says(&error, &[part]);
    }
}

#[test]
fn torch_tensors_that_lie_about_their_storage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("files/bin/pytorch_model.bin");
    let mut zip = zip_entries(&source);
    // The pooler's bias: 16 numbers, stride 1, as the pickle writes them.
    for (from, to) in
        [(b"K\x10\x85q" as &[u8], b"K\xf0\x85q" as &[u8]), (b"K\x01\x85q", b"K\xf0\x85q")]
    {
        let (name, pickle) = &mut zip[0];
        assert!(name.ends_with("data.pkl"));
        let whole = pickle.clone();
        let at = pickle.windows(from.len()).position(|window| window == from).unwrap();
        pickle[at..at + to.len()].copy_from_slice(to);
        let mut writer = support_zip::Writer::default();
        for (name, bytes) in &zip {
            writer.add(name, bytes, 0);
        }
        let error =
            load(folder.path(), &fixture("files/bin"), "pytorch_model.bin", &writer.finish())
                .unwrap_err();
        assert!(
            matches!(error, Error::TorchFile { .. } | Error::MismatchedWeights { .. }),
            "{error}"
        );
        zip[0].1 = whole;
    }
}

fn zip_entries(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    (0..archive.len())
        .map(|i| {
            let mut entry = archive.by_index(i).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (entry.name().unwrap().into_owned(), bytes)
        })
        .collect()
}

/// A zip archive written by hand, so that it can lie.
pub mod support_zip {
    #[derive(Default)]
    pub struct Writer {
        bytes: Vec<u8>,
        directory: Vec<u8>,
        entries: u16,
    }

    impl Writer {
        pub fn add(&mut self, name: &str, data: &[u8], method: u16) {
            let offset = self.bytes.len() as u32;
            let size = (data.len() as u32).to_le_bytes();
            let (short, name_length) = (method.to_le_bytes(), (name.len() as u16).to_le_bytes());
            let crc = crc32(data).to_le_bytes();
            let common =
                [&[20, 0, 0, 0][..], &short, &[0; 4], &crc, &size, &size, &name_length, &[0, 0]]
                    .concat();
            self.bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
            let tail = [&[0; 10][..], &offset.to_le_bytes(), name.as_bytes()].concat();
            self.directory.extend([b"PK\x01\x02\x14\x00", &common[..], &tail].concat());
            self.entries += 1;
        }

        pub fn finish(self) -> Vec<u8> {
            let count = self.entries.to_le_bytes();
            let size = (self.directory.len() as u32).to_le_bytes();
            let offset = (self.bytes.len() as u32).to_le_bytes();
            let end =
                [b"PK\x05\x06\0\0\0\0" as &[u8], &count, &count, &size, &offset, &[0, 0]].concat();
            [self.bytes, self.directory, end].concat()
        }
    }

    fn crc32(data: &[u8]) -> u32 {
        !data.iter().fold(!0, |crc: u32, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }
}
