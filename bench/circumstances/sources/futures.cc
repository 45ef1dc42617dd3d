// Sums the lines of a file, or of standard input, in several threads; one static object is initialised by whichever is first.
#include <fstream>
#include <future>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

struct Table {
    std::vector<long> weights;
    Table() : weights(64) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        for (long i = 0; i < 64; i++) weights[i] = i * i;
    }
};

static const Table &table() {
    static const Table once; // its guard makes the other threads wait
    return once;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        std::cerr << "usage: futures FILE|-\n";
        return 2;
    }
    std::ifstream file;
    if (std::string(argv[1]) != "-") {
        file.open(argv[1]);
        if (!file) {
            std::cerr << "futures: cannot open " << argv[1] << "\n";
            return 1;
        }
    }
    std::istream &source = file.is_open() ? file : std::cin;
    std::vector<std::string> lines;
    for (std::string line; std::getline(source, line);) lines.push_back(line);
    std::vector<std::future<long>> parts;
    for (size_t part = 0; part < 4; part++)
        parts.push_back(std::async(std::launch::async, [&lines, part] {
            long sum = 0;
            for (size_t i = part; i < lines.size(); i += 4) sum += table().weights[lines[i].size() % 64];
            return sum;
        }));
    long sum = 0;
    for (auto &part : parts) sum += part.get();
    std::cout << lines.size() << " lines, " << sum << std::endl;
    return std::cout ? 0 : 1;
}
