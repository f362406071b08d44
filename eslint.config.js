import neostandard from 'neostandard'

export default [
  ...neostandard({ ts: true, ignores: ['dist', '.tap', 'examples/**/*.js'] }),
  { files: ['types/*.tst.ts'], rules: { '@typescript-eslint/no-unused-vars': 'off' } },
  { rules: { '@stylistic/max-len': ['error', { code: 130, ignoreUrls: true, ignoreTemplateLiterals: true, ignoreStrings: true, ignoreRegExpLiterals: true }] } }
]
