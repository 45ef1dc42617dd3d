// Threads that meet at a static guard, futures and a condition, and processes that share semaphores, as those of Postgres do.
// Whether one waits for another depends on timing; libstdc++'s guards and shared semaphores wait without FUTEX_PRIVATE_FLAG.
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

static int slow(int round) {
    usleep(round % 3 * 300);
    return round;
}

static int guarded() {
    static int once = slow(2);  // __cxa_guard_acquire
    return once;
}

static bool threads() {
    std::vector<std::thread> all;
    std::vector<std::future<int>> futures;
    std::mutex mutex;
    std::condition_variable changed;
    int done = 0;
    for (int i = 0; i < 8; i++) {
        futures.push_back(std::async(std::launch::async, slow, i));
        all.emplace_back([&] {
            guarded();
            std::lock_guard<std::mutex> lock(mutex);
            done++;
            changed.notify_one();
        });
    }
    {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait_for(lock, std::chrono::seconds(60), [&] { return done == 8; });
    }
    int sum = 0;
    for (auto &one : futures) sum += one.get();
    for (auto &one : all) one.join();
    return sum == 28 && done == 8;
}

static bool processes() {
    void *shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    auto *semaphores = static_cast<sem_t *>(shared);
    for (int i = 0; i < 2; i++) sem_init(&semaphores[i], 1, 0);
    for (int child = 0; child < 4; child++)
        if (fork() == 0) {
            for (int i = 0; i < 50; i++) {
                sem_post(&semaphores[0]);
                sem_wait(&semaphores[1]);
            }
            _exit(0);
        }
    for (int i = 0; i < 200; i++) {
        sem_wait(&semaphores[0]);
        sem_post(&semaphores[1]);
    }
    bool fine = true;
    for (int child = 0, status; child < 4; child++) fine = wait(&status) > 0 && status == 0 && fine;
    return fine;
}

int main(int, char **arguments) {
    if (!threads() || !processes()) return 1;
    printf("%s done\n", arguments[0]);
    return 0;
}
