. "$(dirname "$0")/common.sh"
pid() { echo "$server"; }
small() { start python3 -S "$(dirname "$0")/small.py" "$PORT"; }
new_folder
echo hello >data/page

requests() {
    answers 200 /page
    answers 404 /missing
    answers 201 /made -T data/page
    answers 200 /made
    answers 204 /made -X DELETE
}

case $part in
start)
    small; stop TERM 0
    ;;
recipe)
    small; requests; stop TERM 0
    ;;
everything)
    small; requests; requests; stop TERM 0
    small; requests; stop TERM 0
    ;;
esac
