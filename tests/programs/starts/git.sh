# What a person does with git, without a network: in an empty folder.
set -eu
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@localhost GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@localhost GIT_PAGER=cat
git init -q -b main here; cd here
git config user.name a; git config user.email a@localhost; git config --list >/dev/null
echo one > file; mkdir folder; seq 2000 > folder/numbers; ln -s file link; printf '*.o\n' > .gitignore; touch ignored.o run; chmod +x run
git add .; git status --short; git commit -q -m 'first'; git log --stat --oneline
printf '#!/bin/sh\necho "hook: $0" | sed s,.*/,,\ngit diff --cached --name-only\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
printf '#!/bin/sh\ngrep -q . "$1"\n' > .git/hooks/commit-msg; chmod +x .git/hooks/commit-msg
git switch -q -c side; sed -i 's/^7$/seven/' folder/numbers; git commit -q -a -m 'side'; git diff main; git diff --stat --word-diff main >/dev/null
git switch -q main; echo two >> file; git mv file renamed; git commit -q -a -m 'second'; git merge -q -m 'merge' side; git log --graph --oneline --all
git switch -q -c conflict HEAD~1; sed -i 's/^7$/VII/' folder/numbers; git commit -q -a -m c; git merge side || git merge --abort; git rebase main || git rebase --abort
git switch -q main; echo work >> renamed; git stash -q -u; git stash list; git stash pop -q; git checkout -q -- renamed; git restore --staged .; git reset -q --hard HEAD; git clean -fdxq
git tag -a v1 -m v1; git describe; git show --stat v1 >/dev/null; git blame renamed >/dev/null; git grep -n seven; git bisect start HEAD HEAD~2 >/dev/null; git bisect reset 2>/dev/null
git cherry-pick -n side~0 2>/dev/null || git cherry-pick --abort 2>/dev/null || git reset -q --hard; git revert --no-edit HEAD~1 >/dev/null 2>&1 || git revert --abort; git reflog >/dev/null; git worktree add -q ../tree side; git worktree remove ../tree
cd ..; git clone -q here copy; git clone -q --bare here bare.git; git clone -q --no-local --depth 1 "file://$PWD/here" shallow; cd copy
echo three > third; git add third; git commit -q -m 'third'; git remote add bare ../bare.git; git push -q bare main; git fetch -q --all; git pull -q --rebase; git branch -a -vv
git gc -q; git fsck 2>/dev/null; git repack -adq; git archive HEAD | tar -t >/dev/null; git format-patch -q -1; git am -q ./*.patch 2>/dev/null || git am --abort; git bundle create -q ../b.bundle main; git verify-pack -v .git/objects/pack/*.idx >/dev/null
git submodule --quiet status; git -c protocol.file.allow=always submodule --quiet add ../here sub 2>/dev/null || true; git ls-files -s | head -n 1; git cat-file -p HEAD | head -n 1; git rev-parse HEAD; git commit -q --amend --no-edit --allow-empty; GIT_EDITOR=true git rebase -q -i HEAD~1 || true
git apply --check ./*.patch 2>/dev/null || true; git shortlog -sn HEAD; git notes add -m n; git update-index --refresh || true; git -c core.fsmonitor=false status >/dev/null; git maintenance run --quiet
echo git: done
