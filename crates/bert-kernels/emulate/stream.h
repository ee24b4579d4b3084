// What driver and libraries share: a lock, the thread's context, and streams of work. Work runs at
// once, or becomes a part of the graph that the stream captures.
#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <vector>

// The calling thread's context.
inline void*& current_context() {
    static thread_local void* current;
    return current;
}

struct Graph {
    std::vector<std::function<void()>> work;
};
struct Stream {
    Graph* graph;
};

inline std::recursive_mutex& emulated_lock() {
    static std::recursive_mutex lock;
    return lock;
}
inline std::map<void*, Stream>& all_streams() {
    static std::map<void*, Stream> all;
    return all;
}
inline Stream& stream_of(void* stream) { return all_streams()[stream]; }
inline void forget(void* stream) { all_streams().erase(stream); }
inline bool is_any_capturing() {
    for (auto& [_, stream] : all_streams())
        if (stream.graph) return true;
    return false;
}
inline void submit(void* stream, std::function<void()> work) {
    if (Graph* graph = stream_of(stream).graph)
        graph->work.push_back(std::move(work));
    else
        work();
}
