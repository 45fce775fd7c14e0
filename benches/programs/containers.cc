// Something for the compiler to chew on.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <regex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Shape {
    std::map<std::string, std::vector<std::variant<int, double, std::string>>> fields;
    std::unordered_map<int, std::shared_ptr<Shape<N - 1>>> parts;
    void add(int key, const std::string &name) {
        fields[name].emplace_back(key * N);
        fields[name].emplace_back(name + std::to_string(N));
        parts[key] = std::make_shared<Shape<N - 1>>();
        parts[key]->add(key + 1, name + "x");
    }
    std::size_t size() const {
        std::size_t n = fields.size();
        for (auto &[key, part] : parts) n += part->size();
        return n;
    }
};
template <> struct Shape<0> {
    void add(int, const std::string &) {}
    std::size_t size() const { return 1; }
};

int main(int argc, char **argv) {
    Shape<6> shape;
    for (int i = 0; i < argc; i++) shape.add(i, argv[i]);
    std::regex pattern("([a-z]+)([0-9]*)");
    std::stringstream out;
    std::vector<std::function<int(int)>> steps{[](int x) { return x + 1; }, [&](int x) { return x * argc; }};
    std::mt19937 random(1);
    std::shuffle(steps.begin(), steps.end(), random);
    int x = 1;
    for (auto &step : steps) x = step(x);
    out << shape.size() << x << std::regex_match(argv[0], pattern);
    std::cout << out.str() << "\n";
}
