//! What stays in memory after many threads have run a model.

use std::sync::Barrier;

use bert::*;

use crate::support::*;

const THREADS: usize = 64;

/// One pass of B1 S128 in each of some threads, which then wait; the memory that the process has, in kB.
fn memory_after(model: &BertModel, threads: usize) -> usize {
    let row: Vec<u32> = (0..128).map(|i| 1000 + i).collect();
    let input = BertInput::from_ids(ids(&[&row]));
    let done = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                model.forward(&input).unwrap();
                done.wait();
                done.wait();
            });
        }
        done.wait();
        let memory = memory("VmRSS");
        done.wait();
        memory
    })
}

#[test]
#[ignore = "is run alone by the next test"]
fn sixty_four_threads_leave_little_more_memory_than_one() {
    if !is_alone() {
        return;
    }
    let config = BertConfig::from_json(r#"{"model_type": "bert", "vocab_size": 30522}"#).unwrap();
    let model = BertModel::from_config(&config, 0, &LoadOptions::new()).unwrap();
    let one = memory_after(&model, 1);
    let all = memory_after(&model, THREADS);
    println!("{one} kB after one thread, {all} kB after {THREADS}");
    assert!(all < one + (64 << 10), "{one} kB after one thread, {all} kB after {THREADS}");
}

#[test]
#[ignore = "takes half a minute: run by scripts/check"]
fn many_threads_share_their_memory() {
    run_alone("memory::sixty_four_threads_leave_little_more_memory_than_one");
}
